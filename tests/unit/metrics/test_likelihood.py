"""The importance-weighted bound against a model whose likelihood is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from distgen.core.spec import ImageSpec
from distgen.data import open_shard_set
from distgen.metrics.likelihood import importance_bounds, measure, summarise
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import choose_pictures
from distgen.models import VAEConfig, build_networks
from distgen.models.single import SingleLatentModel

LATENT, SIDE, SCALE = 2, 3, 0.7


class GaussianPixels(nn.Module):
    """Pixels are the decoder's output plus normal noise; nothing is dequantised."""

    def observe(self, images_nchw, uniforms_nchw):
        return images_nchw

    def log_prob(self, outputs_nchw, observed_nchw):
        normal = torch.distributions.Normal(outputs_nchw, SCALE)
        return normal.log_prob(observed_nchw).flatten(1).sum(1)

    def mean(self, outputs_nchw):
        return outputs_nchw


class LinearDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(LATENT, SIDE * SIDE)

    def forward(self, latents_nd):
        return self.map(latents_nd).view(-1, 1, SIDE, SIDE)


class RoughEncoder(nn.Module):
    """The exact posterior's mean, and a scale that is off by a factor."""

    def __init__(self, decoder: LinearDecoder, factor: float):
        super().__init__()
        self.decoder, self.factor = decoder, factor

    def forward(self, observed_nchw):
        weight, bias = self.decoder.map.weight, self.decoder.map.bias
        precision = torch.eye(LATENT) + weight.T @ weight / SCALE**2
        residual = observed_nchw.flatten(1) - bias
        mean = torch.linalg.solve(precision, (residual @ weight / SCALE**2).T).T
        scale = self.factor * torch.linalg.inv(precision).diagonal().sqrt()
        raw = 7.0 * torch.atanh(scale.log() / 7.0)  # undoes the model's soft limit
        return torch.cat([mean, raw.expand_as(mean)], dim=1)


@pytest.fixture
def linear_gaussian() -> SingleLatentModel:
    torch.manual_seed(0)
    decoder = LinearDecoder()
    return SingleLatentModel(RoughEncoder(decoder, 1.3), decoder, GaussianPixels(), LATENT).eval()


@torch.no_grad()
def exact_log_likelihood(model: SingleLatentModel, images: torch.Tensor) -> torch.Tensor:
    weight, bias = model.decoder.map.weight, model.decoder.map.bias
    covariance = weight @ weight.T + SCALE**2 * torch.eye(SIDE * SIDE)
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(images.flatten(1))


def test_many_samples_give_the_exact_likelihood(linear_gaussian):
    images = torch.randn(8, 1, SIDE, SIDE)
    exact = exact_log_likelihood(linear_gaussian, images).double()
    found = importance_bounds(linear_gaussian, images, range(8), samples=20_000, seed=0)
    torch.testing.assert_close(found[:, 0], exact, rtol=0, atol=0.03)


def test_the_bound_lies_below_and_tightens_with_more_samples(linear_gaussian):
    images = torch.randn(256, 1, SIDE, SIDE)
    exact = exact_log_likelihood(linear_gaussian, images).mean().item()
    means = [
        importance_bounds(linear_gaussian, images, range(256), samples=k, seed=0)[:, 0].mean()
        for k in (1, 4, 64)
    ]
    assert means[0] < means[1] < means[2] < exact + 0.02


def test_one_sample_is_the_evidence_lower_bound(linear_gaussian):
    images = torch.randn(4, 1, SIDE, SIDE)
    one = importance_bounds(linear_gaussian, images, range(4), samples=1, seed=0)
    torch.testing.assert_close(one[:, 0], one[:, 1])


def test_a_picture_s_bounds_depend_on_its_index_alone():
    torch.manual_seed(0)
    spec = ImageSpec(height=16, width=16, mode="L")
    model = build_networks(VAEConfig(latent_dim=4, width=8), spec)["model"].eval()
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    # 500 samples: more than are weighed at once.
    together = importance_bounds(model, images, [7, 3, 9], samples=500, seed=0)
    alone = importance_bounds(model, images[2:], [9], samples=500, seed=0)
    torch.testing.assert_close(together[2:], alone, rtol=1e-5, atol=1e-4)
    moved = importance_bounds(model, images[2:], [8], samples=500, seed=0)
    assert not torch.allclose(moved, alone, atol=1e-3)


def test_a_few_pictures_tell_the_bound_of_all(digits):
    held_out = open_shard_set(digits, "test")
    torch.manual_seed(0)
    model = build_networks(VAEConfig(latent_dim=4, width=8), held_out.spec)["model"].eval()
    with torch.no_grad():
        model.encoder.posterior.weight.mul_(8.0)  # a poor posterior, so that samples gain much
    chosen, everything = (
        choose_pictures(held_out, count, "test", "likelihood") for count in (60, 10_000)
    )
    asked = {"seed": 0, "device": torch.device("cpu"), "ranks": Ranks()}
    few = measure(model, chosen, 20, **asked, wide=everything)
    whole = measure(model, everything, 20, **asked)
    assert few.wide_images == whole.images == held_out.num_samples
    tolerance = 4 * few.wide_error_nats
    assert abs(few.wide_nats - whole.bound_nats) < tolerance
    assert whole.elbo_nats - whole.bound_nats > 2 * tolerance, "or the gain would not be seen"
    assert whole.wide_nats is None
    assert measure(model, chosen, 20, **asked).wide_nats is None


def test_bits_are_nats_over_pixels():
    bounds = torch.full((4, 2), -math.log(2.0) * 784)
    scores = summarise(bounds, 784, 10, "test")
    assert scores.bits_per_dim == pytest.approx(1.0)
    assert scores.bound_nats == pytest.approx(784 * math.log(2.0))
    assert scores.standard_error_nats == pytest.approx(0.0, abs=1e-9)


def test_held_out_pictures_are_weighed_in_the_order_of_the_set(digits):
    held_out = open_shard_set(digits, "test")
    chosen = choose_pictures(held_out, 12, "test", "likelihood")
    torch.manual_seed(0)
    model = build_networks(VAEConfig(latent_dim=4, width=8), held_out.spec)["model"].eval()
    said: list[str] = []
    ranks = Ranks(on_progress=said.append)
    scores = measure(model, chosen, 3, seed=0, device=torch.device("cpu"), ranks=ranks)
    assert (scores.images, scores.importance_samples, scores.split) == (12, 3, "test")
    assert np.isfinite(scores.bound_nats)
    assert scores.bound_nats <= scores.elbo_nats
    assert said[-1] == "likelihood of 12/12"
