import copy
import math
from itertools import pairwise

import torch
from torch import nn

from distgen.objectives.base import Phase
from distgen.training.job import TrainingConfig
from distgen.training.optim import betas_at, build_optimizers, learning_rate_at, set_pace


def config(**values) -> TrainingConfig:
    return TrainingConfig(**{"images": 1000, "batch_size": 10, "learning_rate": 0.1, **values})


def test_constant_schedule_stays():
    assert {learning_rate_at(config(), seen) for seen in (0, 500, 5000)} == {0.1}


def test_warm_up_rises_linearly_and_its_first_step_moves():
    warm = config(warmup_images=100)
    rates = [learning_rate_at(warm, seen) for seen in range(0, 110, 10)]
    assert 0 < rates[0] < rates[1]
    steps = [b - a for a, b in pairwise(rates)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)
    assert rates[10] == 0.1


def test_cosine_falls_to_zero_at_the_end_and_stays_there():
    cosine = config(schedule="cosine", warmup_images=200)
    assert learning_rate_at(cosine, 200) == 0.1
    assert math.isclose(learning_rate_at(cosine, 600), 0.05)
    assert learning_rate_at(cosine, 1000) < 1e-12
    assert learning_rate_at(cosine, 2000) < 1e-12


def test_each_phase_has_an_optimiser_over_its_own_networks_only():
    networks = {"a": nn.Linear(2, 2), "b": nn.Linear(3, 3)}
    optimizers = build_optimizers([Phase("p", ("a",)), Phase("q", ("a", "b"))], networks, config())
    counts = {
        name: sum(parameter.numel() for group in o.param_groups for parameter in group["params"])
        for name, o in optimizers.items()
    }
    assert counts == {"p": 6, "q": 18}
    set_pace(optimizers["p"], config(learning_rate=0.5, betas=(0.1, 0.8)), 0)
    groups = optimizers["p"].param_groups
    assert [(group["lr"], group["betas"]) for group in groups] == [(0.5, (0.1, 0.8))]
    assert torch.is_tensor(optimizers["p"].param_groups[0]["params"][0])


def test_learning_rate_and_second_moment_move_with_the_clock():
    moving = config(
        learning_rate={"start": 0.2, "end": 0.1, "images": 400},
        betas=(0.0, {"start": 0.9, "end": 0.99, "images": 400}),
        warmup_images=100,
    )
    assert 0 < learning_rate_at(moving, 0) < 0.2, "warm-up scales it"
    assert math.isclose(learning_rate_at(moving, 200), 0.15)
    assert {learning_rate_at(moving, seen) for seen in (400, 999)} == {0.1}
    first, second = betas_at(moving, 200)
    assert first == 0.0
    assert math.isclose(second, 0.945)
    assert betas_at(moving, 400) == (0.0, 0.99)


def test_restored_moments_belong_to_the_same_weights_in_any_layout():
    def trained(layout: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3).to(memory_format=layout)
        optimizer = build_optimizers([Phase("p", ("n",))], {"n": network}, config())["p"]
        return network, optimizer

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        network(images).square().sum().backward()
        optimizer.step()

    whole, broken = trained(torch.channels_last), trained(torch.channels_last)
    step(*whole, seed=1)
    step(*broken, seed=1)
    # As a checkpoint keeps them: contiguous, whatever they were.
    kept = copy.deepcopy(broken[1].state_dict())
    for moments in kept["state"].values():
        moments |= {name: value.contiguous() for name, value in moments.items()}
    resumed = broken[0], trained(torch.channels_last)[1]
    resumed[1].param_groups[0]["params"] = list(broken[0].parameters())
    resumed[1].load_state_dict(kept)
    step(*whole, seed=2)
    step(*resumed, seed=2)
    assert torch.equal(whole[0].weight, resumed[0].weight)
    state = resumed[1].state[broken[0].weight]
    assert state["exp_avg"].stride() == broken[0].weight.stride()
