"""Batches from indices: read, checked, decoded, with their labels."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from distgen.core.errors import UsageError
from distgen.data.formats.decode import BufferPool
from distgen.data.index import ShardSet
from distgen.data.keeping.cache import MemoryCache
from distgen.data.streaming.bad import BadSample, SubstitutingReader, Tolerance
from distgen.data.streaming.mixed import Reader
from distgen.data.streaming.read import SampleReader

_SAMPLES_PER_TASK = 64
_NO_TOLERANCE = Tolerance()

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    `images_nhwc` uint8 [n, H, W, C], of clips [n, T, H, W, C]; `labels_n` int64 [n], -1 where there
    is none; `weights_n` float32 [n], 0 for padding and 1 otherwise; `indices_n` int64 [n], places
    in the shard set, also where another sample stands in for a damaged one.
    """

    images_nhwc: np.ndarray
    labels_n: np.ndarray
    weights_n: np.ndarray
    indices_n: np.ndarray

    def __len__(self) -> int:
        return len(self.indices_n)


class Loader:
    """Makes batches from indices; called by several threads at once.

    Args:
        reader: Who reads them.
        shape: Height, width and channels.
        cache: Where decoded pictures are kept, if anywhere.
        buffers: Batches' arrays that are used again.
    """

    def __init__(
        self, reader: Reader, shape: tuple[int, ...], cache: MemoryCache | None, buffers: int
    ) -> None:
        self._shape = shape
        self._reader = reader
        self._buffers = BufferPool(buffers)
        self._cache = cache

    def load(self, indices: np.ndarray, weights: np.ndarray) -> Batch:
        """The samples at `indices`, int64 [n], in that order, with their `weights`.

        Raises:
            DataError: A sample is missing or damaged.
        """
        images_nhwc = self._buffers.take((len(indices), *self._shape))
        if self._cache is None:
            self._reader.decode(indices, images_nhwc)
            labels = self._reader.labels(indices)
        else:
            labels = self._cache.fill(self._reader, indices, images_nhwc)
        return Batch(images_nhwc, labels, weights, indices)

    def expect(self, indices: np.ndarray) -> None:
        """Begin to fetch samples that will be loaded soon, where fetching takes long."""
        missing = indices if self._cache is None else self._cache.missing(indices)
        self._reader.expect(missing)

    def expect_nothing(self) -> None:
        """Take back what was expected, because loading goes on elsewhere."""
        self._reader.expect_nothing()

    def close(self) -> None:
        """Close the files that are open, and let go of the cache."""
        self._reader.close()
        if self._cache is not None:
            self._cache.close()


def read_samples(
    shard_set: ShardSet,
    indices: np.ndarray,
    *,
    decode_threads: int = 2,
    tolerance: Tolerance = _NO_TOLERANCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Decoded samples, in the order of `indices`.

    Args:
        shard_set: What to read.
        indices: Places in the set, int [n]; repeats are allowed.
        decode_threads: Threads that read and decode.
        tolerance: What damaged samples do; those that are replaced are logged.

    Returns:
        Pictures, uint8 [n, H, W, C], of clips [n, T, H, W, C], and labels, int64 [n], -1 where
        there is none.

    Raises:
        UsageError: An index is outside the set.
        DataError: A sample is missing or damaged.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if len(indices) and not 0 <= indices.min() <= indices.max() < shard_set.num_samples:
        raise UsageError(
            f"Indices go from {indices.min()} to {indices.max()}, "
            f"but the shard set has {shard_set.num_samples} samples."
        )
    images_nhwc = np.empty((len(indices), *shard_set.spec.shape), np.uint8)
    reader: Reader = SampleReader(shard_set)
    if tolerance.substitutes:
        reader = SubstitutingReader(reader, shard_set, tolerance, _warn)
    try:
        with ThreadPoolExecutor(decode_threads, "distgen-read") as threads:
            parts = [
                slice(start, start + _SAMPLES_PER_TASK)
                for start in range(0, len(indices), _SAMPLES_PER_TASK)
            ]
            # Consuming the results raises the first error of a thread here.
            list(threads.map(lambda part: reader.decode(indices[part], images_nhwc[part]), parts))
        return images_nhwc, reader.labels(indices)
    finally:
        reader.close()


def _warn(bad: BadSample) -> None:
    _log.warning("Another sample stands in for %r in %s: %s", bad.key, bad.shard, bad.reason)


def read_labels(shard_set: ShardSet) -> np.ndarray:
    """The labels of all samples, int64 [N]; -1 where there is none.

    Raises:
        DataError: The index is damaged.
    """
    reader = SampleReader(shard_set)
    try:
        return reader.labels(np.arange(shard_set.num_samples))
    finally:
        reader.close()
