from __future__ import annotations

import pytest
import torch

from distgen.core.world import World
from distgen.objectives import KINDS, Noise
from distgen.objectives.augmentation import (
    _NUMBERS,
    Augmentation,
    AugmentationConfig,
    changed_pictures,
)

ALL = AugmentationConfig(flip=True, probability=1.0, target=None)
ONLY = {"translation": 0.0, "cutout": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
EACH = {
    "flip": {"flip": True},
    "brightness": {"brightness": 0.3},
    "contrast": {"contrast": 0.5},
    "saturation": {"saturation": 1.0},
    "translation": {"translation": 0.25},
    "cutout": {"cutout": 0.5},
}
ALONE = World()
each_change = pytest.mark.parametrize("name", EACH)


def noise(images_seen: int = 0, world: World = ALONE, batch: int = 12, part=0, parts=1) -> Noise:
    return Noise(7, images_seen, world, batch, torch.device("cpu"), part, parts)


def pictures(count: int = 12, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, 8, 8, generator=generator) * 2 - 1


def alone(name: str, probability: float = 1.0) -> AugmentationConfig:
    return AugmentationConfig(**{**ONLY, **EACH[name]}, probability=probability, target=None)


def test_at_probability_zero_pictures_stay_as_they_are_to_the_bit():
    images = pictures()
    config = AugmentationConfig(flip=True)
    assert torch.equal(Augmentation(config).apply(images, noise(), "x"), images)


@each_change
def test_each_change_happens_as_often_as_the_probability_says(name: str):
    images = pictures(400)
    changed = Augmentation(alone(name, 0.4)).apply(images, noise(batch=400), "x")
    touched = (changed != images).flatten(1).any(1).float().mean()
    expected = 0.2 if name == "flip" else 0.4
    assert abs(touched - expected) < 0.09


@each_change
def test_gradients_flow_through_each_change(name: str):
    images = pictures(2)[..., :4, :4].double().requires_grad_()
    draws = dict(zip(_NUMBERS, torch.rand(len(_NUMBERS), 2).double(), strict=True))
    assert torch.autograd.gradcheck(
        lambda x: changed_pictures(x, draws, torch.tensor(1.0), alone(name)), (images,)
    )


def test_gradients_of_all_changes_together_are_those_of_finite_differences():
    images = pictures(2)[..., :4, :4].double().requires_grad_()
    draws = dict(zip(_NUMBERS, torch.rand(len(_NUMBERS), 2).double(), strict=True))
    assert torch.autograd.gradcheck(
        lambda x: changed_pictures(x, draws, torch.tensor(0.7), ALL), (images,)
    )


def test_a_shift_brings_in_grey_and_moves_the_rest_by_whole_pixels():
    images = pictures(1, 1)
    draws = {name: torch.zeros(1) for name in _NUMBERS}  # the largest shift up and to the left
    moved = changed_pictures(images, draws, torch.tensor(1.0), alone("translation"))
    assert torch.equal(moved[:, :, :-2, :-2], images[:, :, 2:, 2:])
    assert torch.equal(moved[:, :, -2:], torch.zeros(1, 1, 2, 8))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_and_part_changes_its_pictures_as_one_rank_would(size: int, parts: int):
    images = pictures()
    whole = Augmentation(ALL).apply(images, noise(), "x")
    for rank in range(size):
        mine, world = images[rank::size], World(rank, size)
        for part in range(parts):
            rows = mine[part::parts]
            found = Augmentation(ALL).apply(rows, noise(0, world, 12, part, parts), "x")
            assert torch.equal(found, whole[rank::size][part::parts])


def test_real_and_generated_pictures_draw_numbers_of_their_own():
    images = pictures()
    augmentation = Augmentation(ALL)
    assert not torch.equal(
        augmentation.apply(images, noise(), "real"), augmentation.apply(images, noise(), "fake")
    )


def adapted(verdicts: list[float], steps: int, **changes) -> float:
    augmentation = Augmentation(AugmentationConfig(**{"ramp_images": 1000, **changes}))
    for _ in range(steps):
        augmentation.observe(torch.tensor(verdicts))
        augmentation.adapt(50, lambda values: values)
    return float(augmentation.probability)


def test_the_probability_rises_while_verdicts_are_too_sure_and_falls_again():
    assert adapted([1.0, 1.0, 1.0, 1.0], 40) > 0.3
    assert adapted([1.0, -1.0], 40, probability=0.9) < 0.1
    assert adapted([-1.0], 400) == 0.0


def test_the_probability_adapts_to_no_more_than_leaves_no_trace_in_the_pictures():
    assert adapted([1.0], 400) == pytest.approx(0.8)
    assert adapted([1.0], 400, probability=0.9) == pytest.approx(0.9)


def test_without_a_target_the_probability_stays():
    assert adapted([1.0], 40, target=None, probability=0.5) == 0.5


def test_ranks_adapt_alike_and_as_one_rank_with_all_verdicts():
    verdicts = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0, 1.0])
    config = AugmentationConfig(ramp_images=100, target=0.1)
    one = Augmentation(config)
    ranks = [Augmentation(config) for _ in range(3)]
    for _ in range(20):
        one.observe(verdicts)
        one.adapt(6, lambda values: values)
        for number, rank in enumerate(ranks):
            rank.observe(verdicts[number::3][:1])
            rank.observe(verdicts[number::3][1:])  # in two parts
        sums = torch.stack([rank._seen for rank in ranks]).sum(0)
        for rank in ranks:
            rank.adapt(6, lambda _, sums=sums: sums)
    assert float(one.probability) > 0
    for rank in ranks:
        assert torch.equal(rank.probability, one.probability)
        assert torch.equal(rank._sign, one._sign)


def test_what_was_saved_goes_on_as_if_nothing_had_happened():
    config = AugmentationConfig(ramp_images=500)
    whole, first = Augmentation(config), Augmentation(config)
    verdicts = [torch.tensor([1.0, 1.0, value, 1.0]) for value in (1.0, -1.0) * 10]
    for number, each in enumerate(verdicts):
        if number == 11:
            saved = first.state_dict()
            first = Augmentation(config)
            first.load_state_dict(saved)
        for augmentation in (whole, first):
            augmentation.observe(each)
            augmentation.adapt(20, lambda values: values)
    assert torch.equal(whole.probability, first.probability)
    assert torch.equal(whole._sign, first._sign)


@pytest.mark.parametrize("kind", [name for name in KINDS if "elbo" not in name])
def test_it_is_off_unless_asked_for(kind: str):
    assert KINDS[kind]().augmentation is None
