"""Hundreds of epochs in one process take no more memory and files than the first."""

from __future__ import annotations

import gc
from typing import Any

import psutil
import pytest

from distgen.data import Stream
from tests.unit.data.conftest import Made

MIB = 1 << 20


EPOCHS = 200
LOOK_EVERY = 10  # collecting garbage takes longer than an epoch


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_memory_and_open_files_stay_flat_over_epochs(make: Any, cache: Any) -> None:
    made: Made = make(80, 3, 117, side=32, mode="RGB")
    process = psutil.Process()
    files, memory, threads = [], [], []
    with Stream(made.shard_set, batch_size=20, cache=cache, epochs=EPOCHS) as stream:
        for number, batch in enumerate(stream):
            assert len(batch) == 20
            del batch
            if number % (LOOK_EVERY * stream.batches_per_epoch) == 0:
                gc.collect()
                files.append(process.num_fds())
                memory.append(process.memory_info().rss)
                threads.append(process.num_threads())
    assert len(files) == EPOCHS // LOOK_EVERY
    # The first epochs open files, start threads and fill the cache and the pool of arrays.
    settled = len(files) // 4
    assert max(files[settled:]) == files[settled]
    assert max(threads[settled:]) == threads[settled]
    # What other tests have left in this process comes and goes; a batch that stays behind in each
    # epoch would be 8 MiB.
    assert min(memory[-4:]) - memory[settled] < 2 * MIB
