import pytest
import torch
from torch import nn

from distgen.data import open_shard_set
from distgen.data.streaming.bad import Tolerance
from distgen.training.probe import (
    FAKES,
    SIDE,
    Probe,
    Reals,
    Stride,
    glance,
    length,
    thumbnails,
    weights_finite,
)


def pictures(count, seed=0, size=8):
    """Smooth random pictures of four kinds, with their kinds."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.arange(count) % 4
    bases = torch.linspace(-0.8, 0.8, 4)[kinds].reshape(count, 1, 1, 1)
    slopes = torch.randn(count, 1, 1, 1, generator=generator) * 0.2
    ramp = torch.linspace(-1, 1, size).reshape(1, 1, 1, size)
    return (bases + slopes * ramp).clamp(-1, 1).expand(count, 1, size, size), kinds


@pytest.fixture
def reals():
    return Reals.of(*pictures(256))


def test_other_real_pictures_are_near_and_as_varied(reals):
    seen = glance(reals, pictures(FAKES, seed=1)[0], None)
    assert seen.distance < 0.1
    assert 0.9 < seen.diversity < 1.1


def test_always_the_same_grey_is_at_one_and_always_the_same_picture_at_about_two(reals):
    grey = pictures(256)[0].mean(0, keepdim=True).expand(FAKES, -1, -1, -1)
    seen = glance(reals, grey, None)
    assert seen.distance == pytest.approx(1.0, abs=0.05)
    assert seen.diversity == pytest.approx(0.0, abs=1e-5)
    single = [glance(reals, p.expand(FAKES, -1, -1, -1), None) for p in pictures(40, seed=2)[0]]
    assert sum(s.distance for s in single) / len(single) == pytest.approx(2.0, abs=0.3)


def test_one_picture_for_each_class_is_a_collapse_only_a_conditional_model_is_asked_for(reals):
    images, kinds = pictures(FAKES, seed=1)
    images = images[kinds]  # the first four, one of each kind
    assert glance(reals, images, None).diversity > 0.8
    assert glance(reals, images, kinds).diversity < 0.01


def test_values_that_are_not_numbers_do_not_hide_what_is_wrong(reals):
    seen = glance(reals, torch.full((FAKES, 1, 8, 8), float("nan")), None)
    assert seen.distance > 1.0
    assert seen.diversity < 0.01


def test_thumbnails_are_small_whatever_the_pictures_are():
    assert thumbnails(torch.zeros(3, 3, 64, 48)).shape == (3, 3 * SIDE * SIDE)
    assert thumbnails(torch.zeros(3, 1, 16, 16)).shape == (3, 256)
    assert thumbnails(torch.zeros(3, 5, 1, 32, 32)).shape == (3, 5 * SIDE * SIDE), "clips"


class Painter(nn.Module):
    """A sampler that notes how it is asked."""

    latent_dim = 3

    def __init__(self, num_classes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.num_classes = num_classes
        self.asked = []

    def sample(self, latents_nd, labels_n=None):
        self.asked.append((latents_nd, labels_n, self.training))
        return self.weight * latents_nd.mean(1).reshape(-1, 1, 1, 1).expand(-1, 1, 16, 16)


@pytest.mark.parametrize("num_classes", [0, 10])
def test_a_probe_asks_the_same_each_time_and_leaves_no_trace(digits, num_classes):
    probe = Probe(open_shard_set(digits, "train"), 7, Tolerance())
    painter = Painter(num_classes).train()
    before = torch.random.get_rng_state()
    first, second = (probe.look(painter, torch.device("cpu")) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), before)
    assert painter.training
    (one, labels, training), (other, _, _) = painter.asked
    assert torch.equal(one, other)
    assert not training
    assert (labels is None) == (num_classes == 0)
    assert labels is None or (0 <= labels.min() <= labels.max() < 10)


def test_the_length_of_a_step_is_measured_over_that_of_the_weights():
    network = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0, 4.0]]))
        assert float(length(network.parameters())) == pytest.approx(5.0)
        stride = Stride({"n": network})
        network.weight += torch.tensor([[0.0, 1.0]])
    assert stride.ratios() == pytest.approx({"n": 0.2})
    assert Stride({"n": network}).ratios() == {"n": 0.0}


def test_one_weight_that_is_not_a_number_is_found():
    networks = [nn.Linear(2, 2), nn.Linear(2, 2)]
    assert weights_finite(networks)
    with torch.no_grad():
        networks[1].bias[1] = float("inf")
    assert not weights_finite(networks)
