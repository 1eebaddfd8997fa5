"""What is kept for later epochs: decoded pictures in memory, or bytes of remote sets on disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Literal, Protocol, get_args

import numpy as np

from distgen.core.errors import UsageError, did_you_mean
from distgen.core.storage import sha256_of
from distgen.data.index import ShardSet
from distgen.data.keeping.disk import DiskCache, open_disk
from distgen.data.keeping.shared import SharedMemory
from distgen.data.streaming.mixed import Pictures, is_remote

Cache = Literal["auto", "none", "memory", "disk"]
CACHES: tuple[str, ...] = get_args(Cache)
CACHE_BUDGET_MIB = 512

_LAYOUT_VERSION = 1
_LABEL_BYTES = 8
_PAGE_BYTES = 4096
# A copy whose source and target lie alike in their pages, but for a few bytes, takes five times as
# long on some processors (4K aliasing). Large arrays begin where pages do.
_STAGGER_BYTES = 2048

_log = logging.getLogger(__name__)


class Decoder(Protocol):
    """Who makes pictures that are not kept."""

    def decode(self, indices: np.ndarray, out_nhwc: Iterable[np.ndarray]) -> None:
        """Write pictures into `out_nhwc`."""
        ...

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Classes, int64 [n]."""
        ...


def open_cache(
    shard_set: Pictures, cache: Cache, budget_mib: int, *, substitutes: bool = False
) -> MemoryCache | None:
    """The cache in memory, or None where pictures are decoded anew each time.

    Args:
        shard_set: Whose pictures are kept.
        cache: `auto` or `memory`; others keep nothing here.
        budget_mib: Memory in MiB.
        substitutes: Whether damaged samples are replaced. Who does not want that must not find
            substitutes that others keep.

    Raises:
        UsageError: `cache` is unknown.
    """
    if cache not in CACHES:
        raise UsageError(f"data.cache {cache!r} is unknown.", remedy=did_you_mean(cache, CACHES))
    picture_bytes = math.prod(shard_set.spec.shape)
    capacity = min(shard_set.num_samples, (budget_mib << 20) // picture_bytes)
    fits = capacity == shard_set.num_samples
    if not capacity or not (cache == "memory" or (cache == "auto" and fits)):
        return None
    whose = f"{shard_set.fingerprint} with substitutes" if substitutes else shard_set.fingerprint
    return MemoryCache(sha256_of(whose.encode()), capacity, shard_set.spec.shape)


def open_disk_cache(
    shard_set: Pictures, cache: Cache, folder: str | None, limit_gib: float
) -> DiskCache | None:
    """The cache on disk, or None where none was asked for, or would not help, or cannot be.

    Args:
        shard_set: What is read.
        cache: What was asked for.
        folder: Where pages are kept; None: `default_folder()`.
        limit_gib: What they may take, in GiB, over all sets and processes that use the folder.
    """
    if cache != "disk":
        return None
    if not is_remote(shard_set):
        _log.warning(
            "data.cache=disk keeps nothing: %s is read from this machine's own file system.",
            shard_set.location if isinstance(shard_set, ShardSet) else "every set of the mix",
        )
        return None
    return open_disk(folder, limit_gib)


class MemoryCache:
    """The first pictures of a set, decoded, in memory that all processes of this host share.

    Two threads or processes may decode the same sample at once; both write the same bytes.

    Args:
        fingerprint: Whose pictures: processes that name the same set share them.
        capacity: Pictures to keep: those with an index below it. A part that stays serves a set
            that is read in epochs better than one that changes with what was read last.
        shape: Height, width and channels; of clips, frames before them.
    """

    def __init__(self, fingerprint: str, capacity: int, shape: tuple[int, ...]) -> None:
        self._capacity = capacity
        images_at = -(-capacity * (_LABEL_BYTES + 1) // _PAGE_BYTES) * _PAGE_BYTES + _STAGGER_BYTES
        images_bytes = capacity * math.prod(shape)
        size = images_at + images_bytes
        self._shared = _share(f"{fingerprint[:32]}-{_LAYOUT_VERSION}", size)
        # NumPy's own memory is taken only as pictures come in.
        memory = np.zeros(size, np.uint8) if self._shared is None else self._shared.bytes
        self._labels_n = np.frombuffer(memory, np.int64, capacity)
        self._here_n = np.frombuffer(memory, np.bool_, capacity, _LABEL_BYTES * capacity)
        images = np.frombuffer(memory, np.uint8, images_bytes, images_at)
        self._images_nhwc = images.reshape(-1, *shape)

    @property
    def is_shared(self) -> bool:
        """Whether other processes of this host see these pictures."""
        return self._shared is not None

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Those of `indices` that are not kept yet, each once, and all that never are."""
        inside = indices[indices < self._capacity]
        beyond = indices[indices >= self._capacity]
        return np.concatenate((np.unique(inside[~self._here_n[inside]]), beyond))

    def fill(self, decoder: Decoder, indices: np.ndarray, out_nhwc: np.ndarray) -> np.ndarray:
        """Write the pictures of `indices` into `out_nhwc` and return their labels.

        Raises:
            DataError: A sample is missing or damaged.
        """
        beyond = np.flatnonzero(indices >= self._capacity)
        if not len(beyond):
            self._keep(decoder, indices)
            # The indices are known to be inside; "clip" spares `take` a copy of the result.
            np.take(self._images_nhwc, indices, axis=0, out=out_nhwc, mode="clip")
            return np.asarray(self._labels_n[indices])
        inside = np.flatnonzero(indices < self._capacity)
        labels = np.empty(len(indices), np.int64)
        self._keep(decoder, indices[inside])
        out_nhwc[inside] = self._images_nhwc[indices[inside]]
        labels[inside] = self._labels_n[indices[inside]]
        decoder.decode(indices[beyond], [out_nhwc[place] for place in beyond.tolist()])
        labels[beyond] = decoder.labels(indices[beyond])
        return labels

    def close(self) -> None:
        """Let go of the shared memory, which is freed with the last process that uses it."""
        if self._shared is not None:
            self._shared.close()

    def _keep(self, decoder: Decoder, indices: np.ndarray) -> None:
        missing = np.unique(indices[~self._here_n[indices]])
        if not len(missing):
            return
        fresh = np.empty((len(missing), *self._images_nhwc.shape[1:]), np.uint8)
        decoder.decode(missing, fresh)
        self._images_nhwc[missing] = fresh
        self._labels_n[missing] = decoder.labels(missing)
        # Last: who sees it takes the picture.
        self._here_n[missing] = True


def _share(name: str, size: int) -> SharedMemory | None:
    try:
        return SharedMemory(name, size)
    except OSError as error:
        _log.warning(
            "Every worker keeps its own decoded pictures, %d MiB, because the host's workers "
            "cannot share them: %s",
            size >> 20,
            error,
        )
        return None
