from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions

from distgen.models.gaussians import DiagonalGaussian, standard_normal_log_prob
from distgen.models.likelihoods import Bernoulli, Gaussian, binarise, build_likelihood, dequantise

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


def test_means_are_pictures():
    for name in ("bernoulli", "gaussian"):
        images = build_likelihood(name).mean(10.0 * torch.randn(SHAPE))
        assert images.abs().max() <= 1.0


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
    other = DiagonalGaussian(torch.randn(6, 4), torch.randn(6, 4))
    learned = distributions.Normal(other.mean_nd, other.log_scale_nd.exp())
    torch.testing.assert_close(posterior.kl_to(other), distributions.kl_divergence(normal, learned))
    torch.testing.assert_close(standard_normal_log_prob(latents), prior.log_prob(latents))
