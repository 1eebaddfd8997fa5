from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions

from distgen.models.gaussians import DiagonalGaussian, standard_normal_log_prob
from distgen.models.likelihoods import (
    Bernoulli,
    DiscretisedLogistic,
    Gaussian,
    LikelihoodName,
    binarise,
    build_likelihood,
    dequantise,
)

SHAPE = (3, 2, 4, 5)


def pictures() -> torch.Tensor:
    levels = torch.randint(0, 256, SHAPE, generator=torch.Generator().manual_seed(0))
    return levels / 127.5 - 1.0


def test_binarised_pixels_are_on_as_often_as_they_are_bright():
    grey = torch.full((1, 1, 100, 100), 2 * 0.3 - 1)
    pixels = binarise(grey, torch.rand(grey.shape, generator=torch.Generator().manual_seed(0)))
    assert set(pixels.unique().tolist()) == {0.0, 1.0}
    assert abs(pixels.mean().item() - 0.3) < 0.02


@given(st.floats(0.0, 1.0, exclude_max=True, width=32))
def test_black_stays_off_and_white_stays_on(uniform: float):
    images = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)
    assert binarise(images, torch.full_like(images, uniform)).flatten().tolist() == [0.0, 1.0]


def test_dequantised_pixels_stay_on_their_grey_level():
    images = pictures()
    spread = dequantise(images, torch.rand(SHAPE))
    assert torch.equal(((spread + 1) * 127.5).round(), ((images + 1) * 127.5).round())


def test_bernoulli_log_prob_is_that_of_torch():
    logits, observed = torch.randn(SHAPE), torch.randint(0, 2, SHAPE).float()
    expected = distributions.Bernoulli(logits=logits).log_prob(observed).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().log_prob(logits, observed), expected)


def test_gaussian_log_prob_is_the_density_times_the_width_of_a_grey_level():
    likelihood = Gaussian()
    means, observed = torch.randn(SHAPE), torch.randn(SHAPE)
    density = distributions.Normal(means, likelihood.log_scale.exp()).log_prob(observed)
    expected = density.flatten(1).sum(1) + math.prod(SHAPE[1:]) * math.log(2 / 255)
    torch.testing.assert_close(likelihood.log_prob(means, observed), expected)


@pytest.mark.parametrize("name", get_args(LikelihoodName))
def test_means_are_pictures(name):
    likelihood = build_likelihood(name)
    count, channels, *size = SHAPE
    outputs = 10.0 * torch.randn(count, channels * likelihood.outputs_per_channel, *size)
    images = likelihood.mean(outputs)
    assert images.shape == SHAPE
    assert images.abs().max() <= 1.0


def grey_levels() -> torch.Tensor:
    """A picture of one pixel for each 8-bit value."""
    return (torch.arange(256, dtype=torch.float64) * (2 / 255) - 1).view(256, 1, 1, 1)


@pytest.mark.parametrize("components", [1, 3])
@given(mean=st.floats(-1.5, 1.5), log_scale=st.floats(-9.0, 4.0), seed=st.integers(0, 99))
def test_the_probabilities_of_all_grey_levels_sum_to_one(components, mean, log_scale, seed):
    likelihood = DiscretisedLogistic(components)
    torch.manual_seed(seed)
    means = mean + 0.3 * torch.randn(components, dtype=torch.float64)
    scales = log_scale + torch.randn(components, dtype=torch.float64)
    weights = torch.randn(components, dtype=torch.float64)
    parts = (means, scales) if components == 1 else (means, scales, weights)
    outputs = torch.cat(parts).view(1, -1, 1, 1).expand(256, -1, -1, -1)
    masses = likelihood.log_prob(outputs, grey_levels()).exp()
    assert (masses >= 0).all()
    assert masses.sum().item() == pytest.approx(1.0, abs=1e-9)


def test_a_grey_level_s_probability_is_the_logistic_s_mass_around_it():
    means, scale = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64).view(1, 1, 1, 7), 0.05
    observed = grey_levels()[[0, 3, 100, 128, 200, 254, 255]].view(1, 1, 1, 7)
    outputs = torch.cat((means, torch.full_like(means, math.log(scale))), dim=1)

    def below(values: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((values - means) / scale)

    lower, upper = below(observed - 1 / 255), below(observed + 1 / 255)
    lower[..., 0], upper[..., -1] = 0.0, 1.0
    expected = (upper - lower).log().sum()
    found = DiscretisedLogistic().log_prob(outputs, observed)
    torch.testing.assert_close(found, expected.view(1))


def test_a_discretised_pixel_that_is_far_off_still_has_a_gradient():
    outputs = torch.zeros(1, 2, 1, 2, requires_grad=True)
    far = outputs + torch.tensor([-1.0, -6.9]).view(1, 2, 1, 1)
    observed = torch.tensor([1.0, 0.2]).view(1, 1, 1, 2)
    log_prob = DiscretisedLogistic().log_prob(far, observed)
    assert torch.isfinite(log_prob).all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), outputs)
    assert torch.isfinite(gradient).all()
    assert (gradient[0, 0] > 0).all(), "the mean is drawn towards what was seen"


def test_discretised_pictures_are_the_8_bit_ones_and_no_noise_is_added():
    likelihood, images = DiscretisedLogistic(), pictures()
    torch.testing.assert_close(likelihood.observe(images, torch.rand(SHAPE)), images)
    augmented = images + 0.3 / 255
    torch.testing.assert_close(likelihood.observe(augmented, torch.rand(SHAPE)), images)


def test_the_channels_of_a_picture_have_their_own_logistics():
    likelihood = DiscretisedLogistic(2)
    outputs = torch.randn(3, 2 * likelihood.outputs_per_channel, 4, 5)
    whole = likelihood.log_prob(outputs, pictures())
    halves = [
        likelihood.log_prob(part, channel)
        for part, channel in zip(outputs.chunk(2, 1), pictures().split(1, 1), strict=True)
    ]
    torch.testing.assert_close(whole, halves[0] + halves[1])


def test_posterior_terms_are_those_of_torch():
    torch.manual_seed(0)
    mean, log_scale = torch.randn(6, 4), 0.5 * torch.randn(6, 4)
    posterior = DiagonalGaussian(mean, log_scale)
    normal = distributions.Normal(mean, log_scale.exp())
    prior = distributions.Normal(torch.zeros(()), torch.ones(()))
    latents = posterior.sample(torch.randn(6, 4))
    torch.testing.assert_close(posterior.log_prob(latents), normal.log_prob(latents))
    torch.testing.assert_close(
        posterior.kl_to_standard(), distributions.kl_divergence(normal, prior)
    )
    torch.testing.assert_close(standard_normal_log_prob(latents), prior.log_prob(latents))
