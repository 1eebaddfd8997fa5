"""A first stage for pipelines of `webdataset`: encoded samples in our order, resumable.

wds.DataPipeline(Samples("shards/x/train", batch_size=64), wds.decode("rgb8"), ...)
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.data.index import IndexReader, ShardSet, open_shard_set
from distgen.data.streaming.mixed import open_order
from distgen.data.streaming.order import EpochEnd
from distgen.data.streaming.read import SampleReader

Sample = dict[str, object]

_ALONE = World()
_KEYS_OF_SHARDS = 256
_MAGICS = ((b"\xff\xd8", "jpg"), (b"\x89P", "png"), (b"RI", "webp"))


class Samples:
    """Samples as `webdataset` has them: `__key__`, `__url__`, `cls` and the picture, as bytes.

    The picture is `jpg`, `png` or `webp`; a clip is `npy`.

    Ranks and DataLoader workers are dealt with here, so no `split_by_node` or `split_by_worker`
    follows. A worker gives the samples of whole batches in turn: a pipeline that makes batches of
    `batch_size / world.size` samples gives the batches of a `Stream`, in its order. So what was
    consumed after k batches is `k * batch_size`, and that is what `start` takes.

    Args:
        shards: Path or URL of a shard set, or one that is open.
        batch_size: Samples of a global batch, over all ranks.
        world: Which part of it is ours.
        seed: The run's seed.
        start: Samples of global batches that were consumed before.
        epochs: Epochs after which the stage ends; None: never. What does not fill the last batch
            comes as a smaller one, so nothing is missing or repeated.
        lanes: See `Order`.
        shuffle_window: See `Order`.
        shuffle: False gives the samples as they lie.
        read_ahead: Batches that are read ahead.

    Raises:
        UsageError: There is no such set, or an argument is impossible for it.
        DataError: The manifest is damaged; in iteration, a sample is.
    """

    def __init__(
        self,
        shards: str | ShardSet,
        *,
        batch_size: int,
        world: World = _ALONE,
        seed: int = 0,
        start: int = 0,
        epochs: int | None = None,
        lanes: int = 64,
        shuffle_window: int = 16_384,
        shuffle: bool = True,
        read_ahead: int = 2,
    ) -> None:
        self._set = open_shard_set(shards) if isinstance(shards, str) else shards
        self._batch_size = batch_size
        self._world = world
        self._start = start
        self._read_ahead = read_ahead
        epoch_end: EpochEnd = "carry" if epochs is None else "pad"
        self._order = open_order(
            self._set,
            seed=seed,
            lanes=lanes,
            shuffle_window=shuffle_window,
            shuffle=shuffle,
            epoch_end=epoch_end,
        )
        if start < 0:
            raise UsageError(f"A stream cannot begin at position {start}.")
        self._order.check_start(start, batch_size)
        per_epoch = self._order.batches_per_epoch(batch_size) * batch_size
        self._end = math.inf if epochs is None else epochs * per_epoch

    def __call__(self) -> Iterator[Sample]:
        """The samples of this process, from `start`."""
        turn = _worker()
        stride = self._batch_size * turn.size
        position = self._start + turn.rank * self._batch_size
        reader = SampleReader(self._set)
        keys = _Keys(self._set)
        pending: deque[Future[list[Sample]]] = deque()
        try:
            with ThreadPoolExecutor(self._read_ahead, "distgen-samples") as threads:
                while True:
                    while len(pending) < self._read_ahead and position < self._end:
                        pending.append(threads.submit(self._batch, reader, keys, position))
                        position += stride
                    if not pending:
                        return
                    yield from pending.popleft().result()
        finally:
            reader.close()
            keys.close()

    def _batch(self, reader: SampleReader, keys: _Keys, position: int) -> list[Sample]:
        indices, weights = self._order.batch(position, self._batch_size, self._world)
        indices = indices[weights > 0]
        labels = reader.labels(indices).tolist()
        encoded = reader.encoded(indices)
        samples = []
        for index, data, label in zip(indices.tolist(), encoded, labels, strict=True):
            picture = bytes(data)
            sample = {**keys.of(index), _field(picture, self._set.manifest.sample_fields): picture}
            samples.append(sample if label < 0 else {**sample, "cls": str(label).encode()})
        return samples


class _Keys:
    """Names of samples; those of one shard are read at once."""

    def __init__(self, shard_set: ShardSet) -> None:
        self._set = shard_set
        self._index = IndexReader(shard_set)
        self._of_shard = functools.lru_cache(_KEYS_OF_SHARDS)(self._read)

    def of(self, index: int) -> Sample:
        """`__key__` and `__url__` of a sample."""
        shard = int(np.searchsorted(self._set.starts, index, side="right")) - 1
        key = self._of_shard(shard)[index - int(self._set.starts[shard])].as_py()
        return {"__key__": key, "__url__": str(self._set.shard(shard))}

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def _read(self, shard: int) -> pa.ChunkedArray:
        return self._index.table(shard, ["key"]).column("key")


def _field(picture: bytes, fields: tuple[str, ...]) -> str:
    """Which of these members the bytes are."""
    if len(fields) == 1:
        return fields[0]
    return next((name for magic, name in _MAGICS if picture.startswith(magic)), fields[0])


def _worker() -> World:
    from torch.utils.data import get_worker_info  # a second that only users of torch should pay

    info = get_worker_info()
    return _ALONE if info is None else World(info.id, info.num_workers)
