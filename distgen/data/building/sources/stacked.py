"""`stacked-digits`: three digits as the three channels of a picture, with 1,000 modes.

The test for mode collapse of Metz et al. 2017. There the digits are MNIST's; here they are those
that are always at hand, so modes and divergences compare, and distances between pictures do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from distgen.core.seeding import derive
from distgen.core.spec import Mode
from distgen.core.storage import sha256_of
from distgen.data.building.sources.item import Item, Source, split_of
from distgen.data.building.sources.runs import Lined

DIGITS = 10
CHANNELS = 3
CLASSES = DIGITS**CHANNELS
STACKS = {"train": 60_000, "test": 10_000}
"""Stacks of each split: as many of every class."""


class StackedDigitsSource:
    """Stacks of three digits, uint8 `[H, W, 3]`; the class is their number, `000` to `999`.

    Training stacks are made of training digits only and held-out ones of held-out digits, as the
    set `digits` divides them. All classes come equally often, so that the modes' distribution is
    known exactly; no stack comes twice. Which digits are in which stack never changes.

    Args:
        digits: Grey digits of one size, all in memory.
    """

    name = "stacked-digits"
    classes = tuple(f"{number:03d}" for number in range(CLASSES))
    splits: tuple[str, ...] = tuple(STACKS)
    default_split = 0.0
    default_mode: Mode | None = "RGB"

    def __init__(self, digits: Source) -> None:
        self._digits = digits
        self.default_size = digits.default_size

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The stacks of a split, in an order that mixes all classes."""
        if split not in STACKS:
            raise ValueError(f"stacked-digits has no split {split!r}")
        share = self._digits.default_split
        digits = [item for item in self._digits.items(None) if split_of(item, share) == split]
        pictures, labels = [_pixels(item) for item in digits], [item.label for item in digits]
        recipe_nc = _recipe(np.array(labels), STACKS[split], split)
        make = partial(_stack, split, pictures, labels, recipe_nc)
        content = b"".join(each.tobytes() for each in pictures) + recipe_nc.astype("<i8").tobytes()
        told = f"{self.name} {split} {sha256_of(content)}\n"
        return Lined(np.arange(len(recipe_nc)), make, told=told)


def _recipe(labels_d: np.ndarray, count: int, split: str) -> np.ndarray:
    """Digits of each stack, int64 `[count, 3]`: every class equally often, no stack twice."""
    random = np.random.default_rng(derive(0, "stacked digits", split))
    of_label = [np.flatnonzero(labels_d == label) for label in range(DIGITS)]
    numbers = random.permutation(np.resize(np.arange(CLASSES), count))
    wanted_nc = numbers[:, None] // DIGITS ** np.arange(CHANNELS - 1, -1, -1) % DIGITS
    recipe_nc = np.empty((count, CHANNELS), dtype=np.int64)
    missing = np.arange(count)
    while len(missing):
        for label, digits in enumerate(of_label):
            rows, channels = np.nonzero(wanted_nc[missing] == label)
            recipe_nc[missing[rows], channels] = random.choice(digits, size=len(rows))
        _, first = np.unique(recipe_nc, axis=0, return_index=True)
        missing = np.setdiff1d(np.arange(count), first)
    return recipe_nc


def _stack(
    split: str,
    pictures: Sequence[np.ndarray],
    labels: Sequence[int],
    recipe_nc: np.ndarray,
    number: int,
) -> Item:
    chosen = recipe_nc[number].tolist()
    label = int("".join(str(labels[digit]) for digit in chosen))
    stacked = np.stack([pictures[digit] for digit in chosen], axis=2)
    return Item(f"stack-{split}-{number:05d}", f"stacked-digits[{split}, {number}]", label, stacked)


def _pixels(item: Item) -> np.ndarray:
    content = item.content
    if not isinstance(content, np.ndarray) or content.ndim != 2:
        raise TypeError("stacks are made of grey pictures in memory")
    return content
