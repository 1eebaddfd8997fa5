"""Sizes of memory as people write them: `2GiB`, `512MiB`, `800000000`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PositiveInt

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)?", re.IGNORECASE)
_UNITS = {
    "b": 1,
    **{f"{letter}ib": 2 ** (10 * n) for n, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 10 ** (3 * n) for n, letter in enumerate("kmgt", 1)},
}


def parse_bytes(text: str) -> int:
    """A number of bytes from text.

    Raises:
        ValueError: It is not a positive number, or its unit is unknown.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[(match[2] or "B").lower()]) if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size: write it as 2GiB or 512MiB")
    return size


def _from_text(value: Any) -> Any:
    return parse_bytes(value) if isinstance(value, str) else value


Bytes = Annotated[PositiveInt, BeforeValidator(_from_text)]
"""A number of bytes, in a config also as text with a unit."""
