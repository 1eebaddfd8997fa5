"""Batches for training: ordered, read, decoded and delivered, with one integer of state."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.data.keeping.cache import CACHE_BUDGET_MIB, Cache, open_cache, open_disk_cache
from distgen.data.keeping.disk import DISK_GIB
from distgen.data.streaming.ahead import ReadAhead
from distgen.data.streaming.bad import BAD_BUDGET, OnBad, OnError, SubstitutingReader, Tolerance
from distgen.data.streaming.loader import Batch, Loader
from distgen.data.streaming.mix import SampleOrder
from distgen.data.streaming.mixed import Pictures, Reader, is_remote, open_order, open_reader
from distgen.data.streaming.order import EpochEnd

_ALONE = World()
# Work on pictures up to this size is mostly Python's own, which one thread at a time can do: a
# second one takes turns with it after every few microseconds, and both get half as much done.
SMALL_BYTES = 4096


class Stream:
    """An endless iterator of batches in the order of `data.order`, made ready by threads.

    The whole state is `position`, the number of images in the global batches that were taken: a
    stream that starts there, on any number of ranks, goes on with the same batches. Pictures of a
    batch that is still held anywhere, as an array, a view or a tensor, are never overwritten.

    Args:
        shard_set: What to read: a shard set, or several that were joined by `mix`.
        batch_size: Images of a global batch, over all ranks.
        world: Which part of it is ours.
        seed: The run's seed.
        start: Images that were taken before.
        lanes: See `Order`.
        shuffle_window: See `Order`.
        epoch_end: `carry`, `drop` or `pad`; see `Order`.
        shuffle: False gives the samples as they lie.
        epochs: Epochs after which the stream ends, rounded up to whole batches; None: never.
        turn: Every how many-th global batch is ours, where other processes deliver the others.
        decode_threads: Threads that read and decode; one where pictures are very small.
        prefetch_batches: Batches that are made ready ahead.
        cache: Keep decoded pictures in memory: `memory`, `none`, or `auto` where they fit; or,
            with `disk`, the bytes of remote sets on this host's disk.
        cache_budget_mib: Memory in MiB for decoded pictures.
        cache_dir: Folder for what `disk` keeps; None: see `disk.default_folder`.
        cache_disk_gib: What that may take, in GiB, over all sets and processes that use the folder.
        on_error: What a damaged sample does: `fail` raises; `substitute` gives the next sound one
            with its label, while `Batch.indices_n` stays what the order says.
        bad_budget: Damaged samples up to which that goes on: a count, or below 1 a share.
        on_bad: Told of each damaged sample once, in any thread.

    Raises:
        UsageError: An argument is impossible for this set.
        DataError: The index is damaged; in iteration, a sample is.
    """

    def __init__(
        self,
        shard_set: Pictures,
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
        turn: World = _ALONE,
        decode_threads: int = 2,
        prefetch_batches: int = 4,
        cache: Cache = "auto",
        cache_budget_mib: int = CACHE_BUDGET_MIB,
        cache_dir: str | None = None,
        cache_disk_gib: float = DISK_GIB,
        on_error: OnError = "fail",
        bad_budget: float = BAD_BUDGET,
        on_bad: OnBad = lambda _: None,
    ) -> None:
        if batch_size < world.size:
            raise UsageError(
                f"A batch of {batch_size} leaves some of {world.size} workers without an image.",
                remedy=f"batch_size of at least {world.size}",
            )
        self._order = open_order(
            shard_set,
            seed=seed,
            lanes=lanes,
            shuffle_window=shuffle_window,
            shuffle=shuffle,
            epoch_end=epoch_end,
        )
        self._world = world
        self._batch_size = batch_size
        self._stride = batch_size * turn.size
        self._end = _end(self._order, batch_size, epochs)
        if math.prod(shard_set.spec.shape) <= SMALL_BYTES:
            decode_threads = 1
        # Every thread needs a batch to work on while others wait to be taken.
        self.ahead = max(prefetch_batches, decode_threads)
        """Batches that are being made ready at any time."""
        tolerance = Tolerance(on_error, bad_budget)
        kept = open_cache(shard_set, cache, cache_budget_mib, substitutes=tolerance.substitutes)
        self._disk = open_disk_cache(shard_set, cache, cache_dir, cache_disk_gib)
        reader: Reader = open_reader(shard_set, self._disk)
        if tolerance.substitutes:
            reader = SubstitutingReader(reader, shard_set, tolerance, on_bad)
        self._loader = Loader(reader, shard_set.spec.shape, kept, buffers=self.ahead + 2)
        self._ahead = None
        if is_remote(shard_set):
            horizon = max(shuffle_window // 2, 2 * self.ahead * batch_size)
            self._ahead = ReadAhead(self._loader, self._upcoming, self._stride, horizon, self._end)
        self._threads = ThreadPoolExecutor(decode_threads, "distgen-data")
        self._pending: deque[Future[Batch]] = deque()
        self._closed = False
        self.load_state_dict({"images_seen": start + turn.rank * batch_size})

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
        if self._ahead is not None:
            self._ahead.restart(position)

    def close(self) -> None:
        """Stop and join the threads and close the files; a closed stream gives no more batches."""
        self._closed = True
        self._drop_pending()
        if self._ahead is not None:
            self._ahead.close()
        self._threads.shutdown(wait=True)
        self._loader.close()
        if self._disk is not None:
            self._disk.close()

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
        self._position += self._stride
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
        if self._ahead is not None:
            self._ahead.advance(self._submitted)
        while len(self._pending) < self.ahead and self._submitted < self._end:
            self._pending.append(self._threads.submit(self._load, self._submitted))
            self._submitted += self._stride

    def _upcoming(self, images_seen: int) -> np.ndarray:
        return self._order.batch(images_seen, self._batch_size, self._world)[0]

    def _load(self, images_seen: int) -> Batch:
        indices, weights = self._order.batch(images_seen, self._batch_size, self._world)
        return self._loader.load(indices, weights)

    def _drop_pending(self) -> None:
        while self._pending:
            self._pending.pop().cancel()


def _end(order: SampleOrder, batch_size: int, epochs: int | None) -> float:
    """The position at which a stream of so many epochs ends."""
    per_epoch = order.batches_per_epoch(batch_size)
    if epochs is None:
        return math.inf
    if order.epoch_end == "carry":
        return -(-epochs * order.num_samples // batch_size) * batch_size
    return epochs * per_epoch * batch_size
