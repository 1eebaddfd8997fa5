"""A step that is not finite is taken by no rank, and leaves nothing behind.

This file is also the program of one rank: `python test_gate.py RANK RANKS FOLDER`.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distgen.core.world import World
from distgen.training import gate
from distgen.training.collective import Collective
from distgen.training.optim import train_only

RANKS = 2


def network_and_optimizer():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    return network, torch.optim.AdamW(network.parameters(), lr=0.1, foreach=True)


def a_step(network, optimizer, inputs, guarded=True, longest=None):
    """One step as the trainer takes it; returns whether it was taken."""
    optimizer.zero_grad(set_to_none=True)
    gate.backward(network(inputs).square().mean())
    allowed = gate.may_step(optimizer, guarded=guarded)
    if longest:
        gate.shorten(optimizer, longest)
    gate.step_if(optimizer, allowed)
    return bool(allowed)


def state(network, optimizer):
    moments = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    return [tensor.clone() for tensor in (*network.state_dict().values(), *moments)]


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("longest", [None, 0.5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(bad, longest):
    network, optimizer = network_and_optimizer()
    assert a_step(network, optimizer, torch.ones(2, 3))
    before = state(network, optimizer)
    worst = torch.tensor([[1.0, 1.0, 1.0], [1.0, bad, 1.0]])
    assert not a_step(network, optimizer, worst, longest=longest)
    assert same(state(network, optimizer), before)
    assert a_step(network, optimizer, torch.ones(2, 3))
    assert not same(state(network, optimizer), before)


def test_a_loss_that_is_not_finite_forbids_the_step_though_its_gradients_are():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    # The gradient of a sum knows nothing of what is added to it.
    gate.backward(weight.sum() + float("inf"))
    assert not gate.may_step(optimizer, guarded=True)


def test_finite_steps_are_those_of_a_plain_backward_bit_for_bit():
    guarded, plain = network_and_optimizer(), network_and_optimizer()
    for number in range(5):
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        a_step(*guarded, inputs)
        network, optimizer = plain
        optimizer.zero_grad(set_to_none=True)
        network(inputs).square().mean().backward()
        optimizer.step()
    assert same(state(*guarded), state(*plain))


def test_only_long_gradients_are_shortened_and_all_by_the_same_factor():
    network, optimizer = network_and_optimizer()
    gate.backward(network(torch.ones(2, 3)).square().mean())
    before = [weight.grad.clone() for weight in network.parameters()]
    length = torch.cat([each.flatten() for each in before]).norm()
    torch.testing.assert_close(gate.shorten(optimizer, 2 * float(length)), length)
    assert same([weight.grad for weight in network.parameters()], before)
    torch.testing.assert_close(gate.shorten(optimizer, float(length) / 4), length)
    for weight, whole in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(weight.grad, whole / 4)


def test_weights_without_a_gradient_have_nothing_to_shorten():
    _, optimizer = network_and_optimizer()
    assert gate.shorten(optimizer, 1.0) == 0


def test_without_the_guard_every_step_is_taken():
    network, optimizer = network_and_optimizer()
    assert a_step(network, optimizer, torch.full((2, 3), float("nan")), guarded=False)
    assert not torch.isfinite(network[0].weight).all()


def test_weights_without_a_gradient_forbid_nothing():
    _, optimizer = network_and_optimizer()
    optimizer.zero_grad(set_to_none=True)
    assert gate.may_step(optimizer, guarded=True)


def test_only_the_networks_of_a_phase_can_learn_in_it():
    networks = {"a": nn.Linear(1, 1), "b": nn.Linear(1, 1), "constants only": nn.Identity()}
    for phase in ("b", "a", "a", "b"):
        train_only(networks, [phase])
        learning = {
            name: [weight.requires_grad for weight in network.parameters()]
            for name, network in networks.items()
        }
        here = {name: [name == phase] * 2 for name in ("a", "b")}
        assert learning == {**here, "constants only": []}


def be_a_rank(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    network, optimizer = network_and_optimizer()
    replica = Collective(World(rank, size)).replicate({"n": network})["n"]
    found = [a_step(replica, optimizer, torch.ones(2, 3))]
    before = state(network, optimizer)
    # Only the last rank meets a bad picture, and only its loss knows of it.
    bad = float("nan") if rank == size - 1 else 1.0
    found.append(a_step(replica, optimizer, torch.full((2, 3), bad)))
    unchanged = same(state(network, optimizer), before)
    found.append(a_step(replica, optimizer, torch.ones(2, 3)))
    torch.save((found, unchanged, state(network, optimizer)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_skip_the_same_step_without_a_message_of_its_own(tmp_path):
    command = [sys.executable, __file__]
    ranks = [
        subprocess.Popen([*command, str(rank), str(RANKS), str(tmp_path)]) for rank in range(RANKS)
    ]
    assert [rank.wait(120) for rank in ranks] == [0] * RANKS
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    for taken, unchanged, _ in found:
        assert taken == [True, False, True]
        assert unchanged
    assert same(found[0][2], found[1][2]), "weights and moments are the same on both"


if __name__ == "__main__":
    be_a_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
