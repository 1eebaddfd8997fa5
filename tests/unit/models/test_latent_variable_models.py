"""What the VAE families promise beyond sampling: a valid bound, and networks that see time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from distgen.core.spec import ImageSpec
from distgen.models import (
    HVAEConfig,
    LatentNoise,
    LatentReader,
    LatentVariableModel,
    RVAEConfig,
    VAEConfig,
    build_networks,
)
from distgen.models.likelihoods import Bernoulli
from distgen.models.rvae import (
    RowDecoder,
    RowEncoder,
    SequenceDecoder,
    SequenceEncoder,
    images_of,
    rows_of,
)
from distgen.models.single import SingleLatentModel

SPEC = ImageSpec(height=16, width=16, mode="L")
CONFIGS = [
    VAEConfig(latent_dim=4, width=8),
    VAEConfig(latent_dim=4, width=8, likelihood="gaussian"),
    VAEConfig(latent_dim=4, width=8, likelihood="logistic"),
    HVAEConfig(latent_dim=4, width=8, hidden=8),
    HVAEConfig(latent_dim=4, width=8, hidden=8, map_levels=1, likelihood="logistic-mixture"),
    RVAEConfig(latent_dim=4, width=8),
    RVAEConfig(latent_dim=4, width=8, likelihood="gaussian"),
    RVAEConfig(latents="sequence", latent_dim=2, width=8, channels=8),
    RVAEConfig(latents="sequence", latent_dim=2, width=8, channels=8, likelihood="gaussian"),
]
RECURRENT, BANDS = CONFIGS[5], CONFIGS[7]
every_config = pytest.mark.parametrize(
    "config",
    CONFIGS,
    ids=lambda config: (
        f"{config.family}{'-sequence' if 'latents' in config.model_fields_set else ''}"
        f"-{config.likelihood}"
    ),
)


def model_of(config: VAEConfig | HVAEConfig | RVAEConfig) -> LatentVariableModel:
    torch.manual_seed(0)
    model = build_networks(config, SPEC)["model"]
    assert isinstance(model, LatentVariableModel)
    return model.eval()


def noise_for(images: torch.Tensor, latent_dim: int) -> LatentNoise:
    return LatentNoise(torch.rand(images.shape), torch.randn(len(images), latent_dim))


@every_config
@torch.no_grad()
def test_the_terms_are_one_sample_of_the_bound(config):
    model, images = model_of(config), torch.rand(5, 1, 16, 16) * 2 - 1
    noise = noise_for(images, model.latent_dim)
    terms = model(images, noise)
    observed = model.observe(images, noise.uniforms_nchw)
    parts = model.terms(observed, model.encode(observed), noise.normals_nd)
    assert terms.kl_nd.shape == (5, model.latent_dim)
    assert sum(model.latent_groups) == model.latent_dim
    for whole, part in zip(terms, parts, strict=True):
        torch.testing.assert_close(whole, part)


@every_config
@torch.no_grad()
def test_the_closed_form_kl_is_the_mean_of_its_samples(config):
    model, images = model_of(config), torch.rand(1, 1, 16, 16) * 2 - 1
    many = images.expand(4000, -1, -1, -1)
    uniforms = torch.rand(images.shape).expand_as(many)
    terms = model(many, LatentNoise(uniforms, torch.randn(4000, model.latent_dim)))
    sampled = (terms.log_posterior_n - terms.log_prior_n).mean()
    # Of a hierarchy, each sample's KLs are those given the latents that it has above.
    torch.testing.assert_close(sampled, terms.kl_nd.mean(0).sum(), rtol=0.05, atol=0.03)


@every_config
@torch.no_grad()
def test_samples_of_one_posterior_can_be_weighed_in_chunks(config):
    model, images = model_of(config), torch.rand(2, 1, 16, 16) * 2 - 1
    observed = model.observe(images, torch.rand(images.shape))
    normals = torch.randn(6, model.latent_dim)
    rows = [part.repeat_interleave(3, dim=0) for part in (observed, *model.encode(observed))]
    whole = model.terms(rows[0], tuple(rows[1:]), normals)
    chunks = [
        model.terms(
            rows[0][i : i + 2], tuple(part[i : i + 2] for part in rows[1:]), normals[i : i + 2]
        )
        for i in (0, 2, 4)
    ]
    for name, expected in whole._asdict().items():
        found = torch.cat([getattr(chunk, name) for chunk in chunks])
        torch.testing.assert_close(found, expected)


@every_config
@torch.no_grad()
def test_reconstruction_draws_no_noise(config):
    model, images = model_of(config), torch.rand(3, 1, 16, 16) * 2 - 1
    first = model.reconstruct(images, None)
    torch.manual_seed(5)
    assert torch.equal(first, model.reconstruct(images, None))
    assert first.shape == images.shape
    assert first.abs().max() <= 1.0


@every_config
@torch.no_grad()
def test_what_the_posterior_draws_can_be_shown(config):
    model, images = model_of(config), torch.rand(3, 1, 16, 16) * 2 - 1
    assert isinstance(model, LatentReader)
    observed = model.observe(images, torch.full_like(images, 0.5))
    encoding = model.encode(observed)
    latents, terms = model.draw(observed, encoding, torch.zeros(3, model.latent_dim))
    torch.testing.assert_close(model.sample(latents), model.reconstruct(images))
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(terms.log_prior_n, normal.log_prob(latents).sum(1))


@every_config
@torch.no_grad()
def test_latents_that_are_not_kept_are_the_prior_s(config):
    model, images = model_of(config), torch.rand(3, 1, 16, 16) * 2 - 1
    observed = model.observe(images, torch.rand(images.shape))
    encoding, normals = model.encode(observed), torch.randn(3, model.latent_dim)
    whole, _ = model.draw(observed, encoding, normals)
    kept = torch.zeros(model.latent_dim, dtype=torch.bool)
    nothing, terms = model.draw(observed, encoding, normals, kept)
    torch.testing.assert_close(nothing, normals)
    assert terms.kl_nd.abs().max() == 0
    torch.testing.assert_close(terms.log_prior_n, terms.log_posterior_n)
    kept[1] = True
    some, terms = model.draw(observed, encoding, normals, kept)
    torch.testing.assert_close(some[:, 1], whole[:, 1])
    torch.testing.assert_close(some[:, ~kept], normals[:, ~kept])
    assert (terms.kl_nd[:, 1] > 0).all()


class Constant(nn.Module):
    """Puts out the same value whatever comes in."""

    def __init__(self, value: float, *shape: int) -> None:
        super().__init__()
        self.value, self.shape = value, shape

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.full((len(inputs), *self.shape), self.value)


@torch.no_grad()
def test_the_bound_of_a_fair_coin_is_one_bit_per_pixel():
    model = SingleLatentModel(Constant(0.0, 8), Constant(0.0, 1, 16, 16), Bernoulli(), 4)
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    terms = model(images, noise_for(images, 4))
    weights = terms.log_likelihood_n + terms.log_prior_n - terms.log_posterior_n
    torch.testing.assert_close(weights, torch.full((3,), -256 * math.log(2.0)))
    assert torch.equal(terms.kl_nd, torch.zeros(3, 4))


@torch.no_grad()
def test_a_wild_encoder_cannot_overflow_the_bound():
    model = SingleLatentModel(Constant(1e6, 8), Constant(0.0, 1, 16, 16), Bernoulli(), 4)
    assert model.encode(torch.zeros(2, 1, 16, 16)).log_scale_nd.max() <= 7.0


@torch.no_grad()
def test_every_band_is_drawn_from_the_latents_of_all():
    model = model_of(BANDS)
    normals = torch.randn(1, model.latent_dim)
    first = model.sample(normals)
    assert len(model.latent_groups) == 4
    for band in (0, 3):
        changed = normals.clone()
        changed[:, 2 * band : 2 * band + 2] += 3.0
        rows = (model.sample(changed) - first).abs().amax(dim=(0, 1, 3))
        assert (rows > 0).all()


@torch.no_grad()
def test_latents_that_are_not_kept_are_drawn_from_the_prior():
    model, images = model_of(BANDS), torch.rand(3, 1, 16, 16) * 2 - 1
    observed = model.observe(images, torch.rand(images.shape))
    normals = torch.randn(3, model.latent_dim)
    kept = torch.arange(model.latent_dim) % 3 > 0
    latents, terms = model.draw(observed, model.encode(observed), normals, kept)
    assert torch.equal(latents[:, ~kept], normals[:, ~kept])
    assert not torch.isclose(latents[:, kept], normals[:, kept]).any()
    assert torch.equal(terms.kl_nd > 0, kept.expand(3, -1))
    # `sample` shows what was drawn.
    logits = torch.logit((model.sample(latents) + 1) / 2)
    expected = Bernoulli().log_prob(logits, observed)
    torch.testing.assert_close(terms.log_likelihood_n, expected, rtol=1e-3, atol=1e-2)


def test_rows_are_the_time_of_a_picture():
    images = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).float()
    rows = rows_of(images)
    assert rows.shape == (2, 4, 15)
    assert torch.equal(rows[1, 2], images[1, :, 2, :].flatten())
    assert torch.equal(images_of(rows, channels=3), images)


@torch.no_grad()
def test_the_recurrent_encoder_sees_the_order_of_the_rows():
    model, images = model_of(RECURRENT), (torch.rand(1, 1, 16, 16) > 0.5).float()
    shuffled = images[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    first, second = model.encode(images).mean_nd, model.encode(shuffled).mean_nd
    assert not torch.allclose(first, second, atol=1e-4)


@torch.no_grad()
def test_sequence_networks_take_any_length():
    encoder, decoder = SequenceEncoder(6, 8, 10), SequenceDecoder(4, 8, 4, 6)
    for steps in (1, 9, 40):
        assert encoder(torch.randn(2, steps, 6)).shape == (2, 10)
        assert decoder(torch.randn(2, 4), steps).shape == (2, steps, 6)


def test_both_rows_and_latents_reach_the_recurrent_networks():
    model = model_of(RECURRENT)
    assert isinstance(model.encoder, RowEncoder)
    assert isinstance(model.decoder, RowDecoder)
    latents = torch.randn(1, 4, requires_grad=True)
    outputs = model.decoder(latents)
    for row in (0, 8, 15):
        (gradient,) = torch.autograd.grad(outputs[0, 0, row].sum(), latents, retain_graph=True)
        assert gradient.abs().min() > 0
    images = torch.rand(1, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.encode(images).mean_nd.sum(), images)
    assert (gradient.abs().sum(dim=(0, 1, 3)) > 0).all()
