"""Pictures that lie in large files, many in each: they are not listed, but made when asked for.

A picture at a random place in a large file costs as much as all that lie before it, or a request of
its own to a store. So what is put into the order of a hash are runs: pictures that lie one after
another, such as a row group. Inside a run pictures stay in the order of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from distgen.data.building.sources.item import Item, hashed

CHUNK = 32
"""Items that are worked on at a time."""
RUN = 64
"""Pictures in a run where the file does not say: few enough to mix, many for one request."""
LONGEST_CHUNK = 128
"""The same where they lie in one run, which should be read once."""


@dataclass(frozen=True, eq=False)
class Lined(Sequence[Item]):
    """Items in an order, of which only numbers are in memory.

    Args:
        order: Number of each item in its source, int64 [n].
        make: Makes an item from its number.
        runs: Run of each item, int64 [n], equal for those that lie together; None: no matter.
        told: All that the items depend on beside the order; None: not known without making them.
    """

    order: np.ndarray
    make: Callable[[int], Item]
    runs: np.ndarray | None = None
    told: str | None = None

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return [self.make(number) for number in self.order[place].tolist()]
        return self.make(int(self.order[place]))

    def chosen(self, places: np.ndarray) -> Lined:
        """The items at these places."""
        runs = None if self.runs is None else self.runs[places]
        return replace(self, order=self.order[places], runs=runs)


def chosen(items: Sequence[Item], places: np.ndarray) -> Sequence[Item]:
    """The items at these places, which are not made by that."""
    if isinstance(items, Lined):
        return items.chosen(places)
    return Lined(places, items.__getitem__)


def chunk_end(items: Sequence[Item], begin: int) -> int:
    """Where the chunk of items ends that begins here: with its run, if that is not too long."""
    runs = items.runs if isinstance(items, Lined) else None
    if runs is None:
        return min(begin + CHUNK, len(items))
    others = np.flatnonzero(runs[begin : begin + LONGEST_CHUNK] != runs[begin])
    return begin + int(others[0]) if len(others) else min(begin + LONGEST_CHUNK, len(items))


def line_up(
    names: Sequence[str], sizes: Sequence[int], make: Callable[[int], Item], told: str
) -> Lined:
    """Runs in the order of a hash of their names, and in each its items as they lie.

    Args:
        names: Of each run, unique.
        sizes: Items in each run; they are numbered from the first run on.
        make: Makes an item from its number.
        told: See `Lined`.
    """
    starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    places = sorted(range(len(names)), key=lambda run: (hashed("order", names[run]), names[run]))
    parts = [np.arange(starts[run], starts[run + 1]) for run in places]
    order = np.concatenate(parts) if parts else np.empty(0, np.int64)
    runs = np.repeat(np.array(places, np.int64), np.diff(starts)[places])
    return Lined(order, make, runs, told)
