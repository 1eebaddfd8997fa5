"""Two ranks of torch alone, against which runs on Ray are held.

This file is also the program of one rank: `python plain_ranks.py RANK FOLDER RUN...`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from distgen.core.storage import locate
from distgen.core.world import World
from distgen.training import trainer
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder

SIZE = 2


def run(jobs: Sequence[TrainJob], patience_s: float = 300.0) -> None:
    """Train jobs whose run folders are prepared, one after the other, by two processes."""
    with tempfile.TemporaryDirectory() as folder:
        places = [job.location.url for job in jobs]
        command = [sys.executable, __file__]
        ranks = [subprocess.Popen([*command, str(rank), folder, *places]) for rank in range(SIZE)]
        try:
            assert [rank.wait(patience_s) for rank in ranks] == [0] * SIZE
        finally:
            for rank in ranks:
                rank.kill()


def _be(rank: int, folder: Path, places: Sequence[str]) -> None:
    torch.set_num_threads(1)  # as a worker with less than two cores does
    store = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=SIZE)
    for place in places:
        trainer.train(RunFolder(locate(place)).job(), world=World(rank, SIZE))
    dist.destroy_process_group()


if __name__ == "__main__":
    _be(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
