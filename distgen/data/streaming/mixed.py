"""Several shard sets that are read as one: ordered, and read."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.core.storage import sha256_of
from distgen.data.index import ShardSet
from distgen.data.keeping.disk import DiskCache
from distgen.data.streaming.mix import ChosenOrder, MixOrder, SampleOrder
from distgen.data.streaming.order import EpochEnd, Order
from distgen.data.streaming.read import SampleReader
from distgen.data.view import FilterConfig, View, by_class, choose

_ALL = FilterConfig()


@dataclass(frozen=True)
class Part:
    """Samples of one of the sets of a mix, and how often they come relative to other parts."""

    number: int
    view: View
    weight: Fraction = Fraction(1)


@dataclass(frozen=True, eq=False)
class MixedSet:
    """Shard sets one behind the other, of which parts are read.

    An index counts through all samples of all sets, chosen or not. With a single part the order is
    that part's own, exactly once per epoch; with several see `MixOrder`.
    """

    sets: tuple[ShardSet, ...]
    parts: tuple[Part, ...]

    @property
    def spec(self) -> ImageSpec:
        """Size, mode and classes of the pictures of every set."""
        return self.sets[0].spec

    @property
    def num_samples(self) -> int:
        """Samples in all sets, chosen or not."""
        return int(self.starts[-1])

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Index of the first sample of every set, and the total: int64 [sets + 1]."""
        return np.cumsum([0, *(each.num_samples for each in self.sets)], dtype=np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of what is read, and how often."""
        parts = [(part.number, part.view.fingerprint, str(part.weight)) for part in self.parts]
        whole = [[each.fingerprint for each in self.sets], parts]
        return sha256_of(json.dumps(whole, separators=(",", ":")).encode())


Pictures = ShardSet | MixedSet


class Reader(Protocol):
    """What a loader needs; `SampleReader` says what each part means."""

    def labels(self, indices: np.ndarray) -> np.ndarray: ...  # noqa: D102

    def decode(self, indices: np.ndarray, out_nhwc: Iterable[np.ndarray]) -> None: ...  # noqa: D102

    def expect(self, indices: np.ndarray) -> None: ...  # noqa: D102

    def expect_nothing(self) -> None: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


def mix(
    weighted: Sequence[tuple[ShardSet, float]],
    *,
    wanted: FilterConfig = _ALL,
    balance_classes: bool = False,
) -> MixedSet:
    """Shard sets read as one.

    Args:
        weighted: The sets, and how often each comes relative to the others. A weight means the
            number as it is written: 0.1 is a tenth, not its nearest binary fraction.
        wanted: Which samples of each set are read.
        balance_classes: Every class of a set comes equally often.

    Raises:
        UsageError: There is no set, or pictures or classes differ, or nothing is left of one.
        DataError: An index is damaged.
    """
    if not weighted:
        raise UsageError("A mix needs at least one shard set.")
    sets = tuple(shard_set for shard_set, _ in weighted)
    for other in sets[1:]:
        require_same(sets[0], other)
    parts = []
    for number, (shard_set, weight) in enumerate(weighted):
        view = choose(shard_set, wanted)
        views = by_class(view) if balance_classes else (view,)
        share = Fraction(str(weight)) / len(views)
        parts += [Part(number, each, share) for each in views]
    return MixedSet(sets, tuple(parts))


def open_order(
    pictures: Pictures,
    *,
    seed: int = 0,
    lanes: int = 64,
    shuffle_window: int = 16_384,
    shuffle: bool = True,
    epoch_end: EpochEnd = "carry",
) -> SampleOrder:
    """The order in which pictures come; see `Order`.

    Raises:
        UsageError: An option is impossible, by itself or for a mix.
    """

    def order(view: View, epoch_end: EpochEnd) -> Order:
        return Order(
            view.shard_samples, view.fingerprint, seed, lanes, shuffle_window, shuffle, epoch_end
        )

    if isinstance(pictures, ShardSet):
        return order(View(pictures), epoch_end)
    single = len(pictures.parts) == 1
    orders = tuple(
        ChosenOrder(
            order(part.view, epoch_end if single else "carry"),
            part.view.places,
            int(pictures.starts[part.number]),
        )
        for part in pictures.parts
    )
    if single:
        return orders[0]
    weights = tuple(part.weight for part in pictures.parts)
    return MixOrder(orders, weights, pictures.fingerprint, seed, epoch_end)


def open_reader(pictures: Pictures, disk: DiskCache | None = None) -> Reader:
    """Who reads pictures by their indices; bytes of remote sets are kept on `disk`.

    Raises:
        DataError: An index is damaged.
    """
    if isinstance(pictures, ShardSet):
        return SampleReader(pictures, disk=disk)
    return MixedReader(pictures, disk)


def is_remote(pictures: Pictures) -> bool:
    """Whether any of the pictures lie in a store."""
    sets = (pictures,) if isinstance(pictures, ShardSet) else pictures.sets
    return any(each.location.local is None for each in sets)


class MixedReader:
    """Reads samples of several sets by their common index. Thread-safe."""

    def __init__(self, mixed: MixedSet, disk: DiskCache | None = None) -> None:
        self._starts = mixed.starts
        self._readers = [SampleReader(each, disk=disk) for each in mixed.sets]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Classes of samples, int64 [n]; -1 where there is none."""
        labels = np.empty(len(indices), np.int64)
        for reader, places, inside in self._by_set(indices):
            labels[places] = reader.labels(inside)
        return labels

    def decode(self, indices: np.ndarray, out_nhwc: Iterable[np.ndarray]) -> None:
        """Read and decode pictures into `out_nhwc`, uint8 [n, H, W, C] or as many [H, W, C].

        Raises:
            DataError: Bytes are missing, damaged, or no picture of the sets' size.
        """
        out = list(out_nhwc)
        for reader, places, inside in self._by_set(indices):
            reader.decode(inside, [out[place] for place in places.tolist()])

    def expect(self, indices: np.ndarray) -> None:
        """See `SampleReader.expect`."""
        for reader, _, inside in self._by_set(indices):
            reader.expect(inside)

    def expect_nothing(self) -> None:
        """See `SampleReader.expect_nothing`."""
        for reader in self._readers:
            reader.expect_nothing()

    def close(self) -> None:
        """Close the files that are open."""
        for reader in self._readers:
            reader.close()

    def _by_set(self, indices: np.ndarray) -> Iterator[tuple[SampleReader, np.ndarray, np.ndarray]]:
        """Readers of the sets, places in `indices` that are theirs, and the indices in the set."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            yield self._readers[number], places, indices[places] - self._starts[number]


def require_same(first: ShardSet, other: ShardSet) -> None:
    """Refuse sets whose pictures cannot be in one batch.

    Raises:
        UsageError: Says in what they differ.
    """

    def words(spec: ImageSpec) -> Iterator[tuple[str, str]]:
        yield "size", f"{spec.width}x{spec.height}"
        yield "mode", spec.mode
        yield "frames", "single pictures" if spec.frames is None else f"clips of {spec.frames}"
        yield "classes", ", ".join(spec.classes) or "none"

    for (name, here), (_, there) in zip(words(first.spec), words(other.spec), strict=True):
        if here != there:
            raise UsageError(
                f"The sets of a mix differ in {name}: {here} and {there}.",
                where=f"{first.location} and {other.location}",
                remedy="build one of them again like the other: distgen data build SRC DST",
            )
