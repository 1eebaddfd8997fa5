"""The stream as a `torch` dataset, for training loops that are not ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info

from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.data.index import open_shard_set
from distgen.data.streaming.mixed import Pictures
from distgen.data.streaming.stream import Stream

_ALONE = World()


class TorchBatch(NamedTuple):
    """One rank's part of a global batch.

    `images` uint8 [n, C, H, W], of clips [n, T, C, H, W]; `labels` int64 [n], -1 where there is
    none; `weights` float32 [n], 0 for padding; `indices` int64 [n], places in the shard set;
    `images_seen`: what to go on from after this batch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    indices: torch.Tensor
    images_seen: int


class StreamDataset(IterableDataset[TorchBatch]):
    """Batches of a `Stream`, for `DataLoader(dataset, batch_size=None, num_workers=...)`.

    Workers take turns with whole batches, so their number changes neither batches nor their order.
    What was consumed is known where batches arrive: keep `{"images_seen": batch.images_seen}` and
    give it to `load_state_dict` before the loader begins. Loaders that keep the states of their
    workers (torchdata's `StatefulDataLoader`) find the same methods here.

    Args:
        shards: Path or URL of a shard set, or one that is open, or a mix.
        batch_size: Images of a global batch, over all ranks.
        world: Which part of it is ours, such as `World(rank, world_size)`.
        options: Further arguments of `Stream`: `seed`, `epochs`, `epoch_end`, `lanes`, ...

    Raises:
        UsageError: There is no such set, or an argument is impossible for it.
        DataError: The manifest is damaged; in iteration, a sample is.
    """

    def __init__(
        self, shards: str | Pictures, *, batch_size: int, world: World = _ALONE, **options: Any
    ) -> None:
        super().__init__()
        self.pictures = open_shard_set(shards) if isinstance(shards, str) else shards
        self._batch_size = batch_size
        self._options = {"world": world, **options}
        self._state = {"images_seen": int(self._options.pop("start", 0))}

    def state_dict(self) -> dict[str, int]:
        """What to go on from; with workers, in a worker: the worker's own turn is part of it."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state, from any number of ranks, and of workers unless a worker gave it.

        Raises:
            UsageError: The position is negative, or a worker of another number of them gave it.
        """
        if state["images_seen"] < 0:
            raise UsageError(f"A stream cannot begin at position {state['images_seen']}.")
        self._state = dict(state)

    def __iter__(self) -> Iterator[TorchBatch]:
        info = get_worker_info()
        turn = _ALONE if info is None else World(info.id, info.num_workers)
        start = self._start(turn)
        stride = self._batch_size * turn.size
        with Stream(
            self.pictures, batch_size=self._batch_size, start=start, turn=turn, **self._options
        ) as stream:
            for batch in stream:
                seen = stream.position - stride + self._batch_size
                self._state = {"images_seen": seen}
                if info is not None:
                    # Where this worker goes on, less the turns that come before its own.
                    own = stream.position - turn.rank * self._batch_size
                    self._state = {"images_seen": own, "workers": turn.size}
                yield TorchBatch(
                    torch.from_numpy(batch.images_nhwc).movedim(-1, -3),
                    torch.from_numpy(batch.labels_n),
                    torch.from_numpy(batch.weights_n),
                    torch.from_numpy(batch.indices_n),
                    seen,
                )

    def _start(self, turn: World) -> int:
        workers = self._state.get("workers", turn.size)
        if workers != turn.size:
            raise UsageError(
                f"This state was kept by one of {workers} loader workers; there are {turn.size}.",
                remedy=f"num_workers={workers}, or keep batch.images_seen instead",
            )
        return self._state["images_seen"]
