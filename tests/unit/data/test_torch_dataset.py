"""Streams in loops of others: nothing missing or repeated, whatever workers and ranks do."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.data import Stream
from distgen.data import torch_dataset as module
from distgen.data.torch_dataset import StreamDataset

from .conftest import Made

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


ALONE = World()


def batches(made: Made, workers: int, world: World = ALONE, start: int = 0) -> list[Any]:
    dataset = StreamDataset(
        made.shard_set, batch_size=8, world=world, seed=2, epochs=1, epoch_end="pad"
    )
    dataset.load_state_dict({"images_seen": start})
    return list(DataLoader(dataset, batch_size=None, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_epoch_is_whole_whatever_workers_and_ranks_there_are(made: Made, workers: int) -> None:
    with Stream(made.shard_set, batch_size=8, seed=2, epochs=1, epoch_end="pad") as stream:
        expected = [batch.indices_n.tolist() for batch in stream]
    for size in (1, 2):
        parts = [batches(made, workers, World(rank, size)) for rank in range(size)]
        assert {len(part) for part in parts} == {7}
        seen = []
        for number, indices in enumerate(expected):
            joined = np.full(8, -1)
            for rank, part in enumerate(parts):
                batch = part[number]
                joined[rank::size] = batch.indices
                seen += batch.indices[batch.weights > 0].tolist()
                pictures = torch.from_numpy(made.images_nhwc[batch.indices]).permute(0, 3, 1, 2)
                assert batch.images.equal(pictures)
                assert batch.labels.tolist() == made.labels_n[batch.indices].tolist()
                assert batch.images_seen == 8 * (number + 1)
            assert joined.tolist() == indices
        assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("workers", [0, 3])
def test_a_loop_goes_on_from_any_batch_with_other_workers_and_ranks(
    made: Made, workers: int
) -> None:
    whole = batches(made, 1)
    for number in (0, 2, 5):
        start = whole[number].images_seen
        resumed = [batches(made, workers, World(rank, 2), start) for rank in range(2)]
        for step, expected in enumerate(whole[number + 1 :]):
            joined = torch.full((8,), -1)
            for rank, part in enumerate(resumed):
                joined[rank::2] = part[step].indices
            assert joined.equal(expected.indices)


def test_a_loader_that_keeps_its_workers_states_finds_what_it_needs(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torchdata does: each worker keeps its state after a batch, and loads it again."""

    class Info:
        num_workers = 3
        id = 0

    monkeypatch.setattr(module, "get_worker_info", lambda: Info)

    def worker(number: int, state: Any, count: int) -> tuple[list[Any], Any]:
        monkeypatch.setattr(Info, "id", number)
        dataset = StreamDataset(made.shard_set, batch_size=8, seed=2)
        if state:
            dataset.load_state_dict(state)
        iterator = iter(dataset)
        taken = [batch.indices.tolist() for batch in islice(iterator, count)]
        state = dataset.state_dict()
        iterator.close()  # type: ignore[attr-defined]
        return taken, state

    for number in range(3):
        whole, _ = worker(number, None, 6)
        first, state = worker(number, None, 2)
        rest, _ = worker(number, state, 4)
        assert first + rest == whole
    monkeypatch.setattr(Info, "num_workers", 2)
    monkeypatch.setattr(Info, "id", 0)
    dataset = StreamDataset(made.shard_set, batch_size=8)
    dataset.load_state_dict(state)
    with pytest.raises(UsageError, match="one of 3 loader workers; there are 2"):
        next(iter(dataset))
