"""Hundreds of epochs in one process take no more memory and files than the first."""

from __future__ import annotations

import gc
from typing import Any

import psutil
import pytest

from distgen.data import Stream

from .conftest import Made

MIB = 1 << 20


@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("epochs", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_memory_and_open_files_stay_flat_over_epochs(make: Any, cache: Any, epochs: int) -> None:
    made: Made = make(400, 3, 597, side=32, mode="RGB")
    process = psutil.Process()
    files, memory, threads = [], [], []
    with Stream(made.shard_set, batch_size=50, cache=cache, epochs=epochs) as stream:
        for number, batch in enumerate(stream):
            assert len(batch) == 50
            del batch
            if number % stream.batches_per_epoch == 0:
                gc.collect()
                files.append(process.num_fds())
                memory.append(process.memory_info().rss)
                threads.append(process.num_threads())
    assert len(files) == epochs
    # The first epochs open files, start threads and fill the cache and the pool of arrays.
    settled = epochs // 4
    assert max(files[settled:]) == files[settled]
    assert max(threads[settled:]) == threads[settled]
    assert memory[-1] - memory[settled] < 4 * MIB
