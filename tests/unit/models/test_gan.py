from __future__ import annotations

import pytest
import torch

from distgen.core.spec import ImageSpec
from distgen.models import GANConfig, build_networks
from distgen.models.gan import Discriminator, Generator

SPEC = ImageSpec(height=16, width=16, mode="L", classes=("a", "b", "c"))


def pair(**settings) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    networks = build_networks(GANConfig(**{"width": 16, "latent_dim": 8, **settings}), SPEC)
    generator, discriminator = networks["generator"], networks["discriminator"]
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    return generator, discriminator


@torch.no_grad()
def test_the_class_changes_the_picture_and_the_score():
    generator, discriminator = pair(conditional=True)
    latents = torch.randn(1, 8).expand(3, -1)
    images = generator.sample(latents, torch.arange(3))
    assert not torch.allclose(images[0], images[1], atol=1e-3)
    scores = discriminator(images[:1].expand(3, -1, -1, -1), torch.arange(3))
    assert len(scores.unique()) == 3


@torch.no_grad()
def test_an_unconditional_pair_ignores_labels():
    generator, discriminator = pair()
    images = generator.sample(torch.randn(3, 8), torch.arange(3))
    assert torch.equal(discriminator(images, torch.arange(3)), discriminator(images))


def test_sampling_a_conditional_model_without_labels_says_what_is_missing():
    generator, _ = pair(conditional=True)
    with pytest.raises(ValueError, match="labels"):
        generator.sample(torch.randn(2, 8))


def test_scores_have_no_output_bias():
    # Objectives that compare two scores would give it a gradient of exactly zero.
    _, discriminator = pair(conditional=True)
    assert discriminator.score.bias is None


@torch.no_grad()
@pytest.mark.parametrize("network", ["convolutional", "residual"])
@pytest.mark.parametrize("size", [16, 28, 64, 256])
def test_networks_start_at_a_scale_from_which_they_train(size: int, network: str):
    spec = ImageSpec(height=size, width=size, mode="RGB", classes=("a", "b"))
    torch.manual_seed(0)
    networks = build_networks(
        GANConfig(network=network, width=32, blocks=2, conditional=True), spec
    )
    labels = torch.arange(16) % 2
    images = networks["generator"](torch.randn(16, 64), labels)
    assert 0.1 < images.std() < 0.9
    scores = networks["discriminator"](images, labels)
    assert 0.01 < scores.abs().mean() < 5.0
