"""Damaged samples: replaced by their neighbours, told once each, and fatal beyond a budget."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.data.index import ShardSet
from distgen.data.streaming.mixed import Pictures, Reader
from distgen.data.streaming.read import SampleError

OnError = Literal["fail", "substitute"]
BAD_BUDGET = 0.001

_NAMED = 3


@dataclass(frozen=True, order=True)
class BadSample:
    """A sample that cannot be used."""

    index: int
    """Its place among all samples of the set, or of the sets of a mix."""
    shard: str
    """Path or URL of its tar."""
    key: str
    """Its name."""
    reason: str
    """What is wrong with it."""


OnBad = Callable[[BadSample], None]
"""Told of each damaged sample once; called in any thread."""


@dataclass(frozen=True)
class Tolerance:
    """What a damaged sample does.

    Raises:
        UsageError: `on_error` is unknown, or the budget is negative.
    """

    on_error: OnError = "fail"
    """`fail` raises; `substitute` takes the next sound sample of the set in its place."""
    budget: float = BAD_BUDGET
    """Damaged samples up to which that goes on: a count, or below 1 a share of the set."""

    def __post_init__(self) -> None:
        choices = get_args(OnError)
        if self.on_error not in choices:
            raise UsageError(
                f"on_error {self.on_error!r} is unknown.",
                remedy=did_you_mean(self.on_error, choices),
            )
        if not self.budget >= 0:
            raise UsageError(f"bad_budget is {self.budget}; it has to be 0 or more.")

    @property
    def substitutes(self) -> bool:
        """Whether damaged samples are replaced."""
        return self.on_error == "substitute"

    def limit(self, num_samples: int) -> int:
        """Damaged samples that may be met in a set; a share is rounded up."""
        return math.ceil(self.budget * num_samples) if self.budget < 1 else int(self.budget)

    def require_within(self, bad: Collection[BadSample], num_samples: int) -> None:
        """Raise if more samples are damaged than may be.

        Raises:
            DataError: They are; it names the first ones.
        """
        limit = self.limit(num_samples)
        if len(bad) <= limit:
            return
        first = sorted(bad)[:_NAMED]
        named = "; ".join(f"{each.shard}, sample {each.key!r}: {each.reason}" for each in first)
        raise DataError(
            f"{len(bad)} samples are damaged, and data.bad_budget lets no more than {limit} pass.",
            where=named + ("; ..." if len(bad) > _NAMED else ""),
            cause="the set was damaged after it was built",
            remedy="distgen data verify SET, and build or copy it again",
        )


class SubstitutingReader:
    """A reader that gives, for a damaged sample, the next sound one that might have come instead.

    That is the one after it in the set, among those that a filter or a class's share leaves. It
    follows from the set alone, so it is the same on any number of ranks. Shards that are missing
    or cut short, and stores that do not answer, are errors still. Thread-safe.

    Args:
        reader: Who reads.
        pictures: What it reads.
        tolerance: How many samples may be damaged.
        on_bad: Told of each.
    """

    def __init__(
        self, reader: Reader, pictures: Pictures, tolerance: Tolerance, on_bad: OnBad
    ) -> None:
        self._reader = reader
        self._next = successor(pictures)
        self._num_samples = pictures.num_samples
        self._tolerance = tolerance
        self._on_bad = on_bad
        self._bad: dict[int, BadSample] = {}
        self._lock = threading.Lock()

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Classes, int64 [n], of what `decode` gave for these samples."""
        return self._reader.labels(self._sound(indices))

    def decode(self, indices: np.ndarray, out_nhwc: Iterable[np.ndarray]) -> None:
        """Read and decode pictures into `out_nhwc`, uint8 [n, H, W, C] or as many [H, W, C].

        Raises:
            DataError: More samples are damaged than may be, or none is left to stand in.
        """
        out = list(out_nhwc)
        while True:
            sound = self._sound(indices)
            try:
                return self._reader.decode(sound, out)
            except SampleError:
                found = [*self._damaged(np.unique(sound), out[0])]
                if not found:  # it was damaged a moment ago, as by a store that is being written
                    raise
                for sample in found:
                    self._add(sample)

    def expect(self, indices: np.ndarray) -> None:
        """See `SampleReader.expect`."""
        self._reader.expect(self._sound(indices))

    def expect_nothing(self) -> None:
        """See `SampleReader.expect_nothing`."""
        self._reader.expect_nothing()

    def close(self) -> None:
        """See `SampleReader.close`."""
        self._reader.close()

    def _sound(self, indices: np.ndarray) -> np.ndarray:
        """The samples that are read for `indices`."""
        bad = self._bad  # a table never changes; see `_add`
        if not bad:
            return indices
        # Also those that other threads found: each thread has to stop by itself.
        self._tolerance.require_within(bad.values(), self._num_samples)
        found = indices.copy()
        for place in np.flatnonzero(np.isin(indices, list(bad))).tolist():
            found[place] = self._stand_in(int(indices[place]), bad)
        return found

    def _stand_in(self, index: int, bad: dict[int, BadSample]) -> int:
        found = self._next(index)
        while found in bad:
            if found == index:
                raise DataError(
                    "Every sample that could stand in for a damaged one is damaged too.",
                    where=f"{bad[index].shard}, sample {bad[index].key!r}",
                    cause=bad[index].reason,
                    remedy="build or copy the set again",
                )
            found = self._next(found)
        return found

    def _damaged(self, indices: np.ndarray, out_hwc: np.ndarray) -> Iterator[BadSample]:
        """Which of these samples are damaged; tried one by one, for there may be several."""
        for index in indices.tolist():
            try:
                self._reader.decode(np.array([index]), [np.empty_like(out_hwc)])
            except SampleError as error:
                yield BadSample(index, error.shard, error.key, error.reason)

    def _add(self, sample: BadSample) -> None:
        with self._lock:
            if sample.index in self._bad:
                return
            self._bad = {**self._bad, sample.index: sample}
        self._on_bad(sample)


def successor(pictures: Pictures) -> Callable[[int], int]:
    """Who comes after a sample, by its index, among those that might come in its place."""
    if isinstance(pictures, ShardSet):
        return lambda index: (index + 1) % pictures.num_samples

    def following(index: int) -> int:
        number = int(np.searchsorted(pictures.starts, index, side="right")) - 1
        start = int(pictures.starts[number])
        for part in pictures.parts:
            places = part.view.places
            if part.number != number:
                continue
            if places is None:
                return start + (index - start + 1) % pictures.sets[number].num_samples
            place = int(np.searchsorted(places, index - start))
            if place < len(places) and places[place] == index - start:
                return start + int(places[(place + 1) % len(places)])
        raise IndexError(f"sample {index} is in no part of the mix")

    return following
