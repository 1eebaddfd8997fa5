"""Our order as the first stage of a webdataset pipeline."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.data import Stream
from distgen.data.pipeline import Samples

from .conftest import Made

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def test_a_pipeline_decodes_the_samples_of_the_order(made: Made) -> None:
    stage = Samples(made.shard_set, batch_size=10, seed=4)
    pipeline = wds.DataPipeline(
        stage, wds.decode("l8"), wds.to_tuple("png", "cls", "__key__", "__url__"), wds.batched(10)
    )
    with Stream(made.shard_set, batch_size=10, seed=4) as stream:
        for batch, (images, labels, keys, urls) in zip(stream, islice(pipeline, 7), strict=False):
            assert (np.asarray(images) == batch.images_nhwc[:, :, :, 0]).all()
            assert np.asarray(labels).tolist() == batch.labels_n.tolist()
            assert keys == [f"sample-{index:05d}" for index in batch.indices_n]
            starts = made.shard_set.starts
            shards = np.searchsorted(starts, batch.indices_n, side="right") - 1
            assert urls == [str(made.shard_set.shard(int(shard))) for shard in shards]


def keys_of(made: Made, workers: int, world: World, start: int = 0) -> list[list[str]]:
    stage = Samples(made.shard_set, batch_size=8, world=world, epochs=1, start=start)
    pipeline = wds.DataPipeline(stage, wds.to_tuple("__key__"), wds.batched(8 // world.size))
    batches = DataLoader(pipeline, batch_size=None, num_workers=workers)
    return [list(keys) for (keys,) in batches]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 2])
def test_an_epoch_of_a_pipeline_is_whole_and_goes_on(made: Made, workers: int, size: int) -> None:
    whole = [keys_of(made, workers, World(rank, size)) for rank in range(size)]
    seen = [key for part in whole for batch in part for key in batch]
    assert sorted(seen) == [f"sample-{row:05d}" for row in range(50)]
    assert {len(part) for part in whole} == {7}
    for rank, part in enumerate(whole):
        assert keys_of(made, 0, World(rank, size), start=24) == part[3:]


def test_impossible_stages_are_refused(made: Made) -> None:
    with pytest.raises(UsageError, match="position -1"):
        Samples(made.shard_set, batch_size=8, start=-1)
    with pytest.raises(UsageError, match="inside a batch"):
        Samples(made.shard_set, batch_size=8, start=3, epochs=1)
