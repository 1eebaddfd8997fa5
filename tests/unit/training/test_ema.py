import torch
from torch import nn

from distgen.core.schedule import Schedule
from distgen.training.ema import EMA, RAMP_UP


def network(value: float) -> nn.Module:
    layer = nn.Linear(3, 2)
    layer.register_buffer("statistic", torch.zeros(1))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(value)
    return layer


def test_after_one_half_life_half_of_the_old_weights_is_left():
    start, goal = network(0.0), network(1.0)
    ema = EMA(start, half_life=1000)
    seen = 1_000_000  # far beyond the ramp-up
    for _ in range(10):
        seen += 100
        ema.update(goal, batch_size=100, images_seen=seen)
    assert torch.allclose(ema.module.weight, torch.tensor(0.5), atol=1e-5)


def test_the_half_life_does_not_depend_on_the_batch_size():
    averages = []
    for batch in (50, 500):
        ema = EMA(network(0.0), half_life=2000)
        seen = 1_000_000
        for _ in range(5000 // batch):
            seen += batch
            ema.update(network(1.0), batch, seen)
        averages.append(ema.module.weight.mean())
    assert torch.allclose(averages[0], averages[1], atol=1e-5)


def test_early_on_the_initial_weights_are_forgotten_quickly():
    ema = EMA(network(0.0), half_life=10**9)
    ema.update(network(1.0), batch_size=100, images_seen=100)
    assert ema.module.weight.min() > 1 - 0.5 ** (1 / RAMP_UP) - 1e-6


def test_buffers_are_copied_not_averaged():
    source = network(0.0)
    ema = EMA(source, half_life=10**9)
    source.statistic.fill_(7.0)
    ema.update(source, 10, 10**9)
    assert ema.module.statistic.item() == 7.0


def test_the_average_never_requires_gradients_and_is_in_evaluation_mode():
    ema = EMA(network(0.0).train(), half_life=10)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


def test_the_half_life_may_move_with_the_clock():
    moving = Schedule[float](start=100, end=1000, images=10**6)
    for seen, half_life in ((10**6, 1000), (5 * 10**5, 550)):
        ema, fixed = EMA(network(0.0), moving), EMA(network(0.0), half_life)
        for each in (ema, fixed):
            each.update(network(1.0), batch_size=100, images_seen=seen)
        torch.testing.assert_close(ema.module.weight, fixed.module.weight)
