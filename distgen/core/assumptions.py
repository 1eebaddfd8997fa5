"""Figures that an estimate stands on, each of which a user may replace by a better one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from distgen.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

A = TypeVar("A", bound="DataclassInstance")


def assuming(defaults: A, texts: Sequence[str]) -> A:
    """The figures, with those replaced that `NAME=VALUE` texts give.

    Args:
        defaults: A dataclass of numbers.
        texts: What is to be assumed instead.

    Raises:
        UsageError: A name is unknown or a value is no number from 0.
    """
    names = [each.name for each in fields(defaults)]
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in names:
            raise UsageError(f"{text!r} is no assumption.", remedy=did_you_mean(name, names))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise UsageError(f"{value!r} is no value for {name}.", remedy="a number from 0")
        defaults = replace(defaults, **{name: number})
    return defaults
