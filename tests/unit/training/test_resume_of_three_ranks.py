"""Three ranks of one machine, in processes of their own, that are stopped and started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distgen.core.errors import PreemptedError
from distgen.core.storage import locate
from distgen.core.world import World
from distgen.training import checkpoint
from distgen.training.run import RunFolder, Tick
from distgen.training.trainer import train

RANKS = 3
linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared only on Linux")


def be_a_rank(rank: int, meeting: str, *runs: str) -> None:
    """Train the runs at these places; those that are called broken stop half way, once."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    for place in runs:
        run = RunFolder(locate(place))
        resumed = bool(checkpoint.complete(run.checkpoints))

        def stop(tick: Tick, run: RunFolder = run, resumed: bool = resumed) -> bool:
            return run.location.name == "broken" and tick.images_seen >= 108 and not resumed

        try:
            train(run.job(), world=World(rank, RANKS), on_tick=stop)
        except PreemptedError:
            assert run.location.name == "broken"
    dist.barrier()
    dist.destroy_process_group()


def on_ranks(meeting: Path, *runs: RunFolder) -> None:
    places = [str(run.location) for run in runs]
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(meeting), *places])
        for rank in range(RANKS)
    ]
    assert [rank.wait(240) for rank in ranks] == [0] * RANKS


@linux
def test_three_ranks_of_one_machine_resume_bit_for_bit(make_job, start, tmp_path):
    whole, broken = (
        start(make_job("gan", name, images=216, batch_size=36, checkpoint_every=36))
        for name in ("whole", "broken")
    )
    on_ranks(tmp_path / "first", whole, broken)
    assert [event["event"] for event in broken.events()].count("stopped") == 1
    ways = [e["in_shared_memory"] for e in broken.events() if e["event"] == "ranks joined"]
    assert ways == [["discriminator", "generator"]]
    on_ranks(tmp_path / "second", broken)
    assert [event["event"] for event in broken.events()].count("ranks joined") == 2
    found = [checkpoint.complete(run.checkpoints)[-1] for run in (whole, broken)]
    assert [place.name for place in found] == [found[0].name] * 2
    weights = [
        {file.name: file.read_bytes() for file in place.list() if "safetensors" in file.name}
        for place in found
    ]
    assert weights[0] == weights[1]
    assert weights[0]


if __name__ == "__main__":
    be_a_rank(int(sys.argv[1]), sys.argv[2], *sys.argv[3:])
