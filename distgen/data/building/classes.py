"""Classes of sets that others made: numbers or names, as samples have them."""

from __future__ import annotations

from collections.abc import Sequence

from distgen.core.errors import DataError, UsageError, did_you_mean

MAX_CLASSES = 65_536


def number_classes(
    labels: dict[str, str], names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the number of each label that samples have.

    Labels that are all numbers are the classes' numbers; others are names, and names are sorted.

    Args:
        labels: Labels as text, each with a sample that has it.
        names: Class names that were given; None: the labels' own.

    Raises:
        UsageError: Names were given, and no sample has a label.
        DataError: A label is none of the names, or there are too many.
    """
    if not labels:
        if names:
            raise UsageError(
                "There are names for classes, but no sample has a class.",
                remedy="leave out --classes, or name the key that says it with --label-key",
            )
        return (), {}
    if all(text.isascii() and text.isdigit() and len(text) < 10 for text in labels):
        numbers = {text: int(text) for text in labels}
        largest = max(labels, key=lambda text: numbers[text])
        limit = len(names) if names else MAX_CLASSES
        if numbers[largest] >= limit:
            raise DataError(
                f"Class {largest} is outside the {limit} classes.",
                where=labels[largest],
                remedy="as many names of classes as there are numbers, from 0"
                if names
                else "number the classes from 0",
            )
        return tuple(names or map(str, range(numbers[largest] + 1))), numbers
    if len(labels) > MAX_CLASSES:
        raise DataError(f"There are {len(labels)} classes, more than {MAX_CLASSES}.")
    known = tuple(names or sorted(labels))
    numbers = {name: number for number, name in enumerate(known)}
    for text, where in labels.items():
        if text not in numbers:
            raise DataError(
                f"Class {text!r} is none of the classes.",
                where=where,
                remedy=did_you_mean(text, known),
            )
    return known, numbers
