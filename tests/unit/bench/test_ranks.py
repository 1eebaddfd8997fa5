"""Ranks of a measurement talk to one another, and none outlives it."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from distgen.bench.ranks import first_result, on_ranks
from distgen.core.errors import DistgenError
from distgen.core.world import World


def test_rank_that_ends_early_ends_the_measurement() -> None:
    context = multiprocessing.get_context("spawn")
    rank = context.Process(target=exit, args=(3,))
    rank.start()
    with pytest.raises(DistgenError, match="exit code 3"):
        first_result(context.Queue(), [rank])


def total_of_ranks(world: World, offset: int) -> int:
    import torch
    import torch.distributed as dist

    value = torch.tensor([world.rank + offset])
    dist.all_reduce(value)
    return int(value)


def test_ranks_talk_to_one_another() -> None:
    assert on_ranks(2, total_of_ranks, 10) == 21


def stay(world: World, folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def test_ranks_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    call = f"on_ranks(2, stay, {str(tmp_path)!r})"
    code = f"from distgen.bench.ranks import on_ranks; from {__name__} import stay; {call}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen([sys.executable, "-c", code], env=environment)
    ranks: list[psutil.Process] = []
    try:
        while len(ranks) < 2:
            assert owner.poll() is None
            time.sleep(0.1)
            ranks = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
        owner.kill()
        _, alive = psutil.wait_procs(ranks, 20)
        assert not alive
    finally:
        owner.kill()
        owner.wait()
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.kill()


def test_ranks_end_when_whoever_waits_for_them_is_interrupted(monkeypatch, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distgen.bench.ranks.first_result", interrupt)
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        on_ranks(2, stay, str(tmp_path))
    assert set(multiprocessing.active_children()) <= before
