"""Batches for training: ordered, read, decoded and delivered, with one integer of state."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from distgen.core.config import Config
from distgen.core.errors import UsageError, did_you_mean
from distgen.core.world import World
from distgen.data.decode import BufferPool
from distgen.data.index import ShardSet
from distgen.data.order import EpochEnd, Order
from distgen.data.read import SampleReader

Cache = Literal["auto", "none", "memory"]
CACHES: tuple[str, ...] = get_args(Cache)
CACHE_BUDGET_MIB = 512

_SAMPLES_PER_TASK = 64
_ALONE = World()


class DataConfig(Config):
    """Where the pictures come from and how they are delivered."""

    shards: Annotated[str, Field(min_length=1)]
    """Path or URL of a shard set; a split is a subfolder (`train`, `test`)."""
    lanes: PositiveInt = 64
    """Places of the set that are read side by side; part of the order."""
    shuffle_window: PositiveInt = 16_384
    """Samples, over all lanes, among which neighbours are shuffled; part of the order."""
    decode_threads: PositiveInt = 2
    """Threads of each worker that read and decode."""
    prefetch_batches: PositiveInt = 4
    """Batches that are made ready ahead of training."""
    cache: Cache = "auto"
    """Keep decoded pictures in memory: `memory` always, `none` never, `auto` where they fit."""
    cache_budget_mib: NonNegativeInt = CACHE_BUDGET_MIB
    """Memory of each worker, in MiB, up to which `auto` keeps pictures."""


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    `images_nhwc` uint8 [n, H, W, C]; `labels_n` int64 [n], -1 where there is none; `weights_n`
    float32 [n], 0 for padding and 1 otherwise; `indices_n` int64 [n], places in the shard set.
    """

    images_nhwc: np.ndarray
    labels_n: np.ndarray
    weights_n: np.ndarray
    indices_n: np.ndarray

    def __len__(self) -> int:
        return len(self.indices_n)


class Stream:
    """An endless iterator of batches in the order of `data.order`, made ready by threads.

    The whole state is `position`, the number of images in the global batches that were taken: a
    stream that starts there, on any number of ranks, goes on with the same batches. Pictures of a
    batch that is still held anywhere, as an array, a view or a tensor, are never overwritten.

    Args:
        shard_set: What to read.
        batch_size: Images of a global batch, over all ranks.
        world: Which part of it is ours.
        seed: The run's seed.
        start: Images that were taken before.
        lanes: See `Order`.
        shuffle_window: See `Order`.
        epoch_end: `carry`, `drop` or `pad`; see `Order`.
        shuffle: False gives the samples as they lie.
        epochs: Epochs after which the stream ends, rounded up to whole batches; None: never.
        decode_threads: Threads that read and decode.
        prefetch_batches: Batches that are made ready ahead.
        cache: Keep decoded pictures in memory: `memory`, `none`, or `auto` where they fit.
        cache_budget_mib: Memory in MiB up to which `auto` keeps them.

    Raises:
        UsageError: An argument is impossible for this set.
        DataError: The index is damaged; in iteration, a sample is.
    """

    def __init__(
        self,
        shard_set: ShardSet,
        *,
        batch_size: int,
        world: World = _ALONE,
        seed: int = 0,
        start: int = 0,
        lanes: int = 64,
        shuffle_window: int = 16_384,
        epoch_end: EpochEnd = "carry",
        shuffle: bool = True,
        epochs: int | None = None,
        decode_threads: int = 2,
        prefetch_batches: int = 4,
        cache: Cache = "auto",
        cache_budget_mib: int = CACHE_BUDGET_MIB,
    ) -> None:
        if batch_size < world.size:
            raise UsageError(
                f"A batch of {batch_size} leaves some of {world.size} workers without an image.",
                remedy=f"batch_size of at least {world.size}",
            )
        self._order = Order(
            tuple(shard.samples for shard in shard_set.manifest.shards),
            shard_set.fingerprint,
            seed=seed,
            lanes=lanes,
            shuffle_window=shuffle_window,
            shuffle=shuffle,
            epoch_end=epoch_end,
        )
        self._world = world
        self._batch_size = batch_size
        self._end = _end(self._order, batch_size, epochs)
        # Every thread needs a batch to work on while others wait to be taken.
        self.ahead = max(prefetch_batches, decode_threads)
        """Batches that are being made ready at any time."""
        self._loader = _Loader(shard_set, cache, cache_budget_mib, buffers=self.ahead + 2)
        self._threads = ThreadPoolExecutor(decode_threads, "distgen-data")
        self._pending: deque[Future[Batch]] = deque()
        self._closed = False
        self.load_state_dict({"images_seen": start})

    @property
    def position(self) -> int:
        """Images in the global batches that were taken since the run began."""
        return self._position

    @property
    def batches_per_epoch(self) -> int:
        """Batches that begin in an epoch."""
        return self._order.batches_per_epoch(self._batch_size)

    def state_dict(self) -> dict[str, int]:
        """All that is needed to go on from here."""
        return {"images_seen": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state that any stream over this set with this seed and batch size gave.

        Raises:
            UsageError: The position is negative, or inside a batch that cannot be divided.
        """
        position = state["images_seen"]
        if position < 0:
            raise UsageError(f"A stream cannot begin at position {position}.")
        self._order.check_start(position, self._batch_size)
        self._drop_pending()
        self._position = self._submitted = position

    def close(self) -> None:
        """Stop and join the threads and close the files; a closed stream gives no more batches."""
        self._closed = True
        self._drop_pending()
        self._threads.shutdown(wait=True)
        self._loader.close()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise UsageError("This stream is closed.")
        self._submit()
        if not self._pending:
            raise StopIteration
        future = self._pending.popleft()
        self._submit()
        try:
            batch = future.result()
        except BaseException:
            self.close()
            raise
        self._position += self._batch_size
        return batch

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(self) -> None:
        while len(self._pending) < self.ahead and self._submitted < self._end:
            self._pending.append(self._threads.submit(self._load, self._submitted))
            self._submitted += self._batch_size

    def _load(self, images_seen: int) -> Batch:
        indices, weights = self._order.batch(images_seen, self._batch_size, self._world)
        return self._loader.load(indices, weights)

    def _drop_pending(self) -> None:
        while self._pending:
            self._pending.pop().cancel()


def read_samples(
    shard_set: ShardSet, indices: np.ndarray, *, decode_threads: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Decoded samples, in the order of `indices`.

    Args:
        shard_set: What to read.
        indices: Places in the set, int [n]; repeats are allowed.
        decode_threads: Threads that read and decode.

    Returns:
        Pictures, uint8 [n, H, W, C], and labels, int64 [n], -1 where there is none.

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
    images_nhwc = np.empty((len(indices), *_shape(shard_set)), np.uint8)
    reader = SampleReader(shard_set)
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


class _Loader:
    """Makes batches from indices; called by several threads at once."""

    def __init__(
        self, shard_set: ShardSet, cache: Cache, cache_budget_mib: int, buffers: int
    ) -> None:
        if cache not in CACHES:
            raise UsageError(
                f"data.cache {cache!r} is unknown.", remedy=did_you_mean(cache, CACHES)
            )
        self._shape = _shape(shard_set)
        self._reader = SampleReader(shard_set)
        self._buffers = BufferPool(buffers)
        fits = shard_set.num_samples * math.prod(self._shape) <= cache_budget_mib << 20
        keep = cache == "memory" or (cache == "auto" and fits)
        self._kept = _Kept(shard_set.num_samples, self._shape) if keep else None

    def load(self, indices: np.ndarray, weights: np.ndarray) -> Batch:
        images_nhwc = self._buffers.take((len(indices), *self._shape))
        if self._kept is None:
            self._reader.decode(indices, images_nhwc)
            labels = self._reader.labels(indices)
        else:
            labels = self._kept.fill(self._reader, indices, images_nhwc)
        return Batch(images_nhwc, labels, weights, indices)

    def close(self) -> None:
        self._reader.close()


class _Kept:
    """Decoded pictures in memory. Pages are used only as pictures come in.

    Two threads may decode the same sample at once; both write the same bytes.
    """

    def __init__(self, num_samples: int, shape: tuple[int, ...]) -> None:
        self._images_nhwc = np.empty((num_samples, *shape), np.uint8)
        self._labels_n: np.ndarray = np.empty(num_samples, np.int64)
        self._here_n = np.zeros(num_samples, np.bool_)

    def fill(self, reader: SampleReader, indices: np.ndarray, out_nhwc: np.ndarray) -> np.ndarray:
        """Write the pictures of `indices` into `out_nhwc` and return their labels."""
        missing = np.unique(indices[~self._here_n[indices]])
        if len(missing):
            fresh = np.empty((len(missing), *out_nhwc.shape[1:]), np.uint8)
            reader.decode(missing, fresh)
            self._images_nhwc[missing] = fresh
            self._labels_n[missing] = reader.labels(missing)
            self._here_n[missing] = True
        # The indices are known to be inside; "clip" spares `take` a copy of the result.
        np.take(self._images_nhwc, indices, axis=0, out=out_nhwc, mode="clip")
        return np.asarray(self._labels_n[indices])


def _shape(shard_set: ShardSet) -> tuple[int, int, int]:
    spec = shard_set.spec
    return spec.height, spec.width, spec.channels


def _end(order: Order, batch_size: int, epochs: int | None) -> float:
    """The position at which a stream of so many epochs ends."""
    per_epoch = order.batches_per_epoch(batch_size)
    if epochs is None:
        return math.inf
    if order.epoch_end == "carry":
        return -(-epochs * order.num_samples // batch_size) * batch_size
    return epochs * per_epoch * batch_size
