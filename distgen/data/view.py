"""Parts of a shard set, chosen by what its index says before any order is made."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from distgen.core.config import Config
from distgen.core.errors import UsageError, did_you_mean
from distgen.data.index import IndexReader, ShardSet


class FilterConfig(Config):
    """Which samples of a set are read; the others are as if they were not there."""

    classes: tuple[str, ...] | None = None
    """Names of the classes to read; labels stay what they are. Left out: all."""
    min_size: PositiveInt | None = None
    """Pixels that the shorter side of a picture has to have, by the index. Left out: any."""

    @property
    def takes_all(self) -> bool:
        """Whether nothing is left out."""
        return self.classes is None and self.min_size is None


@dataclass(frozen=True, eq=False)
class View:
    """Some samples of a shard set; an order is made over them as over a set.

    `places` are their indices in the set, int64 [n], rising; None stands for all of them.
    """

    shard_set: ShardSet
    places: np.ndarray | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of which samples of which set these are; of all, the set's own."""
        if self.places is None:
            return self.shard_set.fingerprint
        digest = hashlib.sha256(self.shard_set.fingerprint.encode())
        digest.update(np.ascontiguousarray(self.places, "<i8").data)
        return digest.hexdigest()

    @functools.cached_property
    def shard_samples(self) -> tuple[int, ...]:
        """Samples of every shard that has any of them."""
        if self.places is None:
            return tuple(shard.samples for shard in self.shard_set.manifest.shards)
        counts = np.diff(np.searchsorted(self.places, self.shard_set.starts))
        return tuple(counts[counts > 0].tolist())


def choose(shard_set: ShardSet, wanted: FilterConfig) -> View:
    """The samples of a set that a filter leaves.

    Raises:
        UsageError: There is no such class, or no sample is left.
        DataError: The index is damaged.
    """
    if wanted.takes_all:
        return View(shard_set)
    label, width, height = _columns(shard_set, ("label", "width", "height"))
    kept = np.ones(shard_set.num_samples, np.bool_)
    if wanted.classes is not None:
        names = shard_set.spec.classes
        for name in wanted.classes:
            if name not in names:
                raise UsageError(
                    f"data.filter.classes: the shard set has no class {name!r}.",
                    where=str(shard_set.location),
                    remedy=did_you_mean(name, names) if names else "leave data.filter.classes out",
                )
        kept &= np.isin(label, [names.index(name) for name in wanted.classes])
    if wanted.min_size is not None:
        kept &= np.minimum(width, height) >= wanted.min_size
    if not kept.any():
        raise UsageError(
            f"data.filter leaves none of the {shard_set.num_samples:,} samples.",
            where=str(shard_set.location),
            remedy=f"distgen data inspect {shard_set.location}",
        )
    return View(shard_set, np.flatnonzero(kept))


def by_class(view: View) -> tuple[View, ...]:
    """A view for every class that has samples, in label order.

    Raises:
        UsageError: Samples have no class.
        DataError: The index is damaged.
    """
    (label,) = _columns(view.shard_set, ("label",))
    places = np.arange(len(label)) if view.places is None else view.places
    label = label[places]
    unlabelled = int((label < 0).sum())
    if unlabelled:
        raise UsageError(
            f"data.balance=classes, but {unlabelled:,} of {len(label):,} samples have no class.",
            where=str(view.shard_set.location),
            remedy="data.balance=none, or name the classes to read in data.filter.classes",
        )
    return tuple(View(view.shard_set, places[label == each]) for each in np.unique(label))


def _columns(shard_set: ShardSet, names: Sequence[str]) -> list[np.ndarray]:
    """Columns of the index over all shards, each [N]."""
    index = IndexReader(shard_set)
    try:
        tables = [
            index.table(shard, list(names)) for shard in range(len(shard_set.manifest.shards))
        ]
    finally:
        index.close()
    return [np.concatenate([table.column(name).to_numpy() for table in tables]) for name in names]
