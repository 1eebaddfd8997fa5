"""A hierarchy whose likelihood is known exactly: linear, Gaussian, two groups of latents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from distgen.core.spec import ImageSpec
from distgen.metrics import likelihood
from distgen.metrics.likelihood import importance_bounds, rows_per_pass
from distgen.models import HVAEConfig, LatentVariableModel, build_networks
from distgen.models.gaussians import DiagonalGaussian
from distgen.models.hierarchy import HierarchicalModel

FIRST, SECOND, PIXELS, NOISE, FACTOR = 2, 3, 9, 0.7, 1.3


class NormalPixels(nn.Module):
    """Pixels are the decoder's output plus normal noise; nothing is dequantised."""

    outputs_per_channel = 1

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        return images_nchw

    def log_prob(self, outputs_nchw: Tensor, observed_nchw: Tensor) -> Tensor:
        return Normal(outputs_nchw, NOISE).log_prob(observed_nchw).flatten(1).sum(1)

    def mean(self, outputs_nchw: Tensor) -> Tensor:
        return outputs_nchw


class Weights(nn.Module):
    """x = from_second z2 + from_first z1 + noise, with z2 = between z1 + bias + scale noise."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in {
            "between": (SECOND, FIRST), "bias": (SECOND,), "log_scale": (SECOND,),
            "from_first": (PIXELS, FIRST), "from_second": (PIXELS, SECOND),
        }.items():  # fmt: skip
            setattr(self, name, nn.Parameter(0.6 * torch.randn(shape)))

    def marginal(self) -> MultivariateNormal:
        """p(x) over the pixels."""
        both = self.from_first + self.from_second @ self.between
        inner = self.from_second * self.log_scale.exp()
        covariance = both @ both.T + inner @ inner.T + NOISE**2 * torch.eye(PIXELS)
        return MultivariateNormal(self.from_second @ self.bias, covariance)


class Encoder(nn.Module):
    """The exact mean of z1 given x with a scale that is off; the message is x itself."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, observed_nchw: Tensor) -> tuple[Tensor, Tensor]:
        x, p = observed_nchw.flatten(1), self.weights.marginal()
        both = self.weights.from_first + self.weights.from_second @ self.weights.between
        gain = both.T @ torch.linalg.inv(p.covariance_matrix)
        mean = (x - p.mean) @ gain.T
        scale = FACTOR * (torch.eye(FIRST) - gain @ both).diagonal().sqrt()
        raw = 7.0 * torch.atanh(scale.log() / 7.0)  # undoes the model's soft limit
        return torch.cat([mean, raw.expand_as(mean)], dim=1), x


class Second(nn.Module):
    """z2, with the exact posterior mean given z1 and x, and a scale that is off."""

    shape = (SECOND,)

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def prior(self, z1: Tensor) -> Normal:
        return Normal(z1 @ self.weights.between.T + self.weights.bias, self.weights.log_scale.exp())

    def natural_posterior(self, z1: Tensor, x: Tensor) -> Normal:
        prior, from_second = self.prior(z1), self.weights.from_second
        precision = torch.diag(prior.scale[0] ** -2) + from_second.T @ from_second / NOISE**2
        left = x - z1 @ self.weights.from_first.T - prior.mean @ from_second.T
        shift = torch.linalg.solve(precision, (left @ from_second / NOISE**2).T).T
        scale = FACTOR * torch.linalg.inv(precision).diagonal().sqrt()
        return Normal(prior.mean + shift, scale.expand_as(shift))

    def look(self, features: Tensor) -> Tensor:
        return features

    def posterior(self, context: Tensor, message: Tensor) -> DiagonalGaussian:
        prior, natural = self.prior(context), self.natural_posterior(context, message)
        mean = (natural.mean - prior.mean) / prior.scale
        return DiagonalGaussian(mean, (natural.scale / prior.scale).log())

    def absorb(self, features: Tensor, context: Tensor, latents: Tensor) -> Tensor:
        prior = self.prior(context)
        return torch.cat([features, prior.mean + prior.scale * latents], dim=1)


class Decoder(nn.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, latents: Tensor) -> Tensor:
        z1, z2 = latents.split((FIRST, SECOND), dim=1)
        pixels = z1 @ self.weights.from_first.T + z2 @ self.weights.from_second.T
        return pixels.view(-1, 1, 3, 3)


@pytest.fixture
def model() -> HierarchicalModel:
    torch.manual_seed(0)
    weights = Weights()
    parts = Encoder(weights), nn.Identity(), [Second(weights)], Decoder(weights), NormalPixels()
    return HierarchicalModel(*parts, first_dim=FIRST).eval()


def exact(model: HierarchicalModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.decoder.weights.marginal().log_prob(images.flatten(1)).double()


def test_many_samples_give_the_exact_likelihood_of_a_hierarchy(model):
    assert isinstance(model, LatentVariableModel)
    assert model.latent_groups == (FIRST, SECOND)
    images = torch.randn(8, 1, 3, 3)
    found = importance_bounds(model, images, range(8), samples=20_000, seed=0)
    torch.testing.assert_close(found[:, 0], exact(model, images), rtol=0, atol=0.03)


def test_the_bound_of_a_hierarchy_tightens_with_more_samples(model):
    images = torch.randn(256, 1, 3, 3)
    means = [
        importance_bounds(model, images, range(256), samples=k, seed=0)[:, 0].mean().item()
        for k in (1, 4, 64)
    ]
    assert means[0] < means[1] < means[2] < exact(model, images).mean().item() + 0.02


@torch.no_grad()
def test_units_of_the_prior_change_no_term_of_the_bound(model):
    images, normals = torch.randn(5, 1, 3, 3), torch.randn(5, FIRST + SECOND)
    encoding = model.encode(images)
    latents, terms = model.draw(images, encoding, normals)
    group, z1 = model.groups[0], latents[:, :FIRST]
    prior, posterior = group.prior(z1), group.natural_posterior(z1, images.flatten(1))
    z2 = prior.mean + prior.scale * latents[:, FIRST:]
    torch.testing.assert_close(z2, posterior.mean + posterior.scale * normals[:, FIRST:])
    torch.testing.assert_close(terms.kl_nd[:, FIRST:], kl_divergence(posterior, prior))
    first = Normal(encoding[0], encoding[1].exp())
    standard = Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(terms.kl_nd[:, :FIRST], kl_divergence(first, standard))
    by_hand = (
        (standard.log_prob(z1) - first.log_prob(z1)).sum(1)
        + (prior.log_prob(z2) - posterior.log_prob(z2)).sum(1)
    )  # fmt: skip
    torch.testing.assert_close(terms.log_prior_n - terms.log_posterior_n, by_hand)


def test_the_bound_does_not_depend_on_the_memory_it_may_take(monkeypatch):
    torch.manual_seed(0)
    spec = ImageSpec(height=16, width=16, mode="L")
    model = build_networks(HVAEConfig(latent_dim=3, width=8, hidden=8), spec)["model"].eval()
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    rows: list[int] = []
    terms = model.terms

    def counted(observed: Tensor, *rest: Tensor):
        rows.append(len(observed))
        return terms(observed, *rest)

    monkeypatch.setattr(model, "terms", counted)
    asked = {"samples": 100, "seed": 0}
    whole = importance_bounds(model, images, range(3), **asked)
    assert max(rows) == 300, "a small model is asked for all at once"
    rows.clear()
    # One row's largest features are 4 channels of 8x8 in float32, and a few are held at once.
    budget = 20 * likelihood._LIVE_TENSORS * 4 * 8 * 8 * 4
    chunks = importance_bounds(model, images, range(3), **asked, pass_bytes=budget)
    assert max(rows) == 20
    torch.testing.assert_close(chunks, whole, rtol=1e-6, atol=1e-4)


@torch.no_grad()
def test_larger_pictures_are_weighed_fewer_at_a_time():
    rows = []
    for side in (16, 64, 256):
        spec = ImageSpec(height=side, width=side, mode="L")
        model = build_networks(HVAEConfig(latent_dim=3, width=16, hidden=8), spec)["model"].eval()
        observed = torch.zeros(1, 1, side, side)
        rows.append(rows_per_pass(model, observed, model.encode(observed), 1 << 22))
    assert rows[0] > rows[1] > rows[2] >= 1
