"""What a watch remembers, for whoever goes on with it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.training.ladder import Settings
from distgen.training.meters import Record
from distgen.training.monitor import Monitor


class Others:
    """Ranks that have seen what rank 0 has, or nothing, where it has just begun."""

    def __init__(self, size: int, alike: bool) -> None:
        self.world = World(0, size)
        self._factor = size if alike else 1

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values * self._factor


@pytest.fixture
def monitor(make_job):
    def make(size: int = 1, alike: bool = True, enabled: bool = True) -> Monitor:
        job = make_job("gan")
        job = job.model_copy(update={"health": job.health.model_copy(update={"enabled": enabled})})
        shard_set = open_shard_set(job.data.shards, "train")
        return Monitor(
            job, Settings.after(0, job.health), SimpleNamespace(), Others(size, alike), shard_set
        )

    return make


def step(loss: float) -> Record:
    return Record(("loss",), torch.tensor([1.0, loss]))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2), (3, 2)])
def test_steps_before_a_change_of_ranks_were_all_taken(before, after, monitor):
    first = monitor(before)
    for _ in range(40):
        first.add("generator", step(2.0))
    first.settle()
    second = monitor(after, alike=False)
    second.load_state_dict(first.state_dict())
    means, skipped, _ = second._gather()
    assert skipped == {"generator": 0}
    assert means == {"generator/loss": pytest.approx(2.0)}


def test_nothing_waits_for_a_network_that_nobody_watches(monitor):
    watched, unwatched = monitor(), monitor(enabled=False)
    for one in (watched, unwatched):
        one._still = frozenset({"discriminator"})
    assert watched.pauses(["generator"])
    assert not watched.pauses(["discriminator"])
    assert not unwatched.pauses(["generator"])
