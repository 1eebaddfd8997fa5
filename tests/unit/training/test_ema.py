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


def average_of_zeros(half_life: float | Schedule[float]) -> EMA:
    """It has seen a network of zeros, whose weights are ones by now."""
    source = network(0.0)
    ema = EMA(source, half_life)
    source.load_state_dict(network(1.0).state_dict())
    return ema


def test_after_one_half_life_half_of_the_old_weights_is_left():
    ema = average_of_zeros(half_life=1000)
    seen = 1_000_000  # far beyond the ramp-up
    for _ in range(10):
        seen += 100
        ema.update(batch_size=100, images_seen=seen)
    assert torch.allclose(ema.module.weight, torch.tensor(0.5), atol=1e-5)


def test_the_half_life_does_not_depend_on_the_batch_size():
    averages = []
    for batch in (50, 500):
        ema = average_of_zeros(half_life=2000)
        seen = 1_000_000
        for _ in range(5000 // batch):
            seen += batch
            ema.update(batch, seen)
        averages.append(ema.module.weight.mean())
    assert torch.allclose(averages[0], averages[1], atol=1e-5)


def test_early_on_the_initial_weights_are_forgotten_quickly():
    ema = average_of_zeros(half_life=10**9)
    ema.update(batch_size=100, images_seen=100)
    assert ema.module.weight.min() > 1 - 0.5 ** (1 / RAMP_UP) - 1e-6


def test_buffers_are_copied_not_averaged():
    source = network(0.0)
    ema = EMA(source, half_life=10**9)
    source.statistic.fill_(7.0)
    ema.update(10, 10**9)
    assert ema.module.statistic.item() == 7.0


def test_the_average_never_requires_gradients_and_is_in_evaluation_mode():
    ema = EMA(network(0.0).train(), half_life=10)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


def test_the_half_life_may_move_with_the_clock():
    moving = Schedule[float](start=100, end=1000, images=10**6)
    for seen, half_life in ((10**6, 1000), (5 * 10**5, 550)):
        ema, fixed = average_of_zeros(moving), average_of_zeros(half_life)
        for each in (ema, fixed):
            each.update(batch_size=100, images_seen=seen)
        torch.testing.assert_close(ema.module.weight, fixed.module.weight)
