"""Means of gradients through memory that the ranks of one machine share."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distgen.core.world import World
from distgen.training import shared_memory
from distgen.training.collective import Collective
from distgen.training.shared_memory import SharedMeans, shared_means, shared_memories

PASSES = 4

linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared only on Linux")


def a_network() -> nn.Module:
    """Gradients of 1.6 MB: more than one bucket of DistributedDataParallel."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 700), nn.Linear(700, 3))


def be_a_rank(rank: int, size: int, folder: str, how: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    if how == "apart" and rank == size - 1:
        shared_memory._create = lambda *_: ""
    if how == "slow" and rank == size - 1:
        add_up = SharedMeans._add_up

        def slow(self: SharedMeans) -> None:
            time.sleep(0.3)  # while the others are in their next pass
            add_up(self)

        SharedMeans._add_up = slow
    network, ranks = a_network(), Collective(World(rank, size))
    replica = ranks.replicate({"n": network})["n"]
    own, means = [], []
    for turn in range(PASSES):
        generator = torch.Generator().manual_seed(10 * turn + rank)
        pictures = torch.randn(4, 300, generator=generator)
        loss = network(pictures).square().sum()
        own.append(torch.autograd.grad(loss, list(network.parameters())))
        replica.zero_grad()
        replica(pictures).square().sum().backward()
        means.append([weight.grad.clone() for weight in network.parameters()])
    torch.save((ranks.in_shared_memory, own, means), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def by_rank(size: int, folder: Path, how: str) -> list:
    command = [sys.executable, "-W", "error", __file__]
    ranks = [
        subprocess.Popen([*command, str(rank), str(size), str(folder), how]) for rank in range(size)
    ]
    assert [rank.wait(120) for rank in ranks] == [0] * size
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@linux
@pytest.mark.parametrize(("size", "how"), [(2, "even"), (3, "even"), (2, "slow"), (3, "slow")])
def test_every_rank_has_the_mean_in_the_order_of_ranks_bit_for_bit(size, how, tmp_path):
    found = by_rank(size, tmp_path, how)
    assert [shared for shared, _, _ in found] == [{"n"}] * size
    for turn in range(PASSES):
        for weight, gradients in enumerate(zip(*(own[turn] for _, own, _ in found), strict=True)):
            expected = gradients[0] / size + gradients[1] / size
            for more in gradients[2:]:
                expected = expected + more / size
            for rank, (_, _, means) in enumerate(found):
                assert torch.equal(means[turn][weight], expected), (turn, weight, rank)


def test_where_one_rank_shares_no_memory_all_go_through_sockets(tmp_path):
    found = by_rank(2, tmp_path, "apart")
    assert [shared for shared, _, _ in found] == [set(), set()]
    (_, own, means), (_, others, _) = found
    for turn in range(PASSES):
        for mine, theirs, mean in zip(own[turn], others[turn], means[turn], strict=True):
            torch.testing.assert_close(mean, (mine + theirs) / 2)


def never(_):
    raise AssertionError("nobody is asked")


@pytest.mark.parametrize("size", [1, shared_memory.MOST_RANKS + 1])
def test_one_rank_and_many_ranks_share_nothing(size):
    assert shared_means(World(0, size), a_network(), never) is None


def test_networks_without_weights_on_devices_and_large_ones_share_nothing(monkeypatch):
    assert shared_means(World(0, 2), nn.Identity(), never) is None
    assert shared_means(World(0, 2), a_network().to("meta"), never) is None
    monkeypatch.setattr(shared_memory, "MOST_BYTES", 10**6)
    assert shared_means(World(0, 2), a_network(), never) is None


@linux
@pytest.mark.parametrize("there", ["nothing", "a file", "another's", "small", "the same"])
def test_a_path_that_means_something_else_here_is_not_taken_for_the_other_ranks(there, tmp_path):
    nonce = bytes(range(32))
    memory = os.memfd_create("distgen-gradients")
    os.write(memory, bytes(32) if there == "another's" else nonce)
    os.ftruncate(memory, 2048 if there == "small" else 4096)
    path = f"/proc/{os.getpid()}/fd/{memory}"
    if there in ("nothing", "a file"):
        path = str(tmp_path / "other")
    if there == "a file":
        Path(path).write_bytes(nonce + bytes(4064))
    answers = iter([(path, nonce), True])
    found = shared_memories(4096, lambda mine: [*mine, next(answers)])
    os.close(memory)
    assert (found is not None) == (there == "the same")


@linux
def test_a_pipe_of_another_process_keeps_what_is_in_it():
    nonce = bytes(range(32))
    end, begin = os.pipe()
    os.write(begin, nonce)
    os.set_blocking(end, False)
    answers = iter([(f"/proc/{os.getpid()}/fd/{end}", nonce), True])
    assert shared_memories(4096, lambda mine: [*mine, next(answers)]) is None
    assert os.read(end, 32) == nonce
    os.close(begin)
    os.close(end)


@linux
def test_what_another_rank_could_not_open_this_one_does_not_use():
    answers = iter([None, False])

    def gather(mine):
        answer = next(answers)
        return [*mine, *mine] if answer is None else [*mine, answer]

    assert shared_memories(4096, gather) is None


if __name__ == "__main__":
    be_a_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
