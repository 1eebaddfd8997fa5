"""Convolutional generator and discriminator without normalisation (in the spirit of R3GAN)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distgen.core.config import Config
from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.models.base import Family
from distgen.models.layers import (
    ClassEmbedding,
    Contract,
    Expand,
    Pyramid,
    activate,
    linear,
    pyramid_for,
)


class GANConfig(Config):
    """Generative adversarial network (Goodfellow et al. 2014), convolutional and residual."""

    family: Literal["gan"] = "gan"
    latent_dim: int = Field(default=64, ge=1, le=65_536)
    """Size of the latent vector."""
    width: int = Field(default=64, ge=4, le=8192)
    """Channels at the coarsest resolution; halved with each doubling, down to a quarter."""
    blocks: int = Field(default=1, ge=1, le=64)
    """Residual blocks per resolution, in each network."""
    conditional: bool = False
    """Whether pictures are made by class; needs a shard set with classes."""


class Generator(nn.Module):
    """Latents, and class labels where conditional, to pictures."""

    def __init__(self, config: GANConfig, spec: ImageSpec, pyramid: Pyramid) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.num_classes = spec.num_classes if config.conditional else 0
        self.embedding = (
            ClassEmbedding(self.num_classes, config.latent_dim) if config.conditional else None
        )
        inputs = config.latent_dim * (2 if config.conditional else 1)
        self.trunk = Expand(inputs, spec.channels, pyramid, config.width, config.blocks)

    def forward(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Pictures [n, channels, height, width] in [-1, 1]."""
        inputs = latents_nd
        if self.embedding is not None:
            inputs = torch.cat((latents_nd, self.embedding(labels_n)), dim=1)
        return torch.tanh(self.trunk(inputs))

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Pictures [n, channels, height, width] in [-1, 1], in float32."""
        images_nchw: Tensor = self(latents_nd, labels_n)
        return images_nchw.float()


class Discriminator(nn.Module):
    """Pictures, and class labels where conditional, to one score each (projection, Miyato 2018).

    The score has no bias: objectives that compare scores would give it a gradient of exactly zero.
    """

    def __init__(self, config: GANConfig, spec: ImageSpec, pyramid: Pyramid) -> None:
        super().__init__()
        self.trunk = Contract(spec.channels, pyramid, config.width, config.blocks)
        self.features = linear(self.trunk.size, config.width)
        self.score = linear(config.width, 1, gain=0.5, bias=False)
        self.embedding = (
            ClassEmbedding(spec.num_classes, config.width, scale=(2 * config.width) ** -0.5)
            if config.conditional
            else None
        )

    def forward(self, images_nchw: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Scores [n], higher for pictures that look real (for their class)."""
        features_nf = activate(self.features(self.trunk(images_nchw)))
        scores_n: Tensor = self.score(features_nf).squeeze(1)
        if self.embedding is not None:
            scores_n = scores_n + (features_nf * self.embedding(labels_n)).sum(1)
        return scores_n


def build(config: GANConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """The generator and the discriminator.

    Raises:
        UsageError: The pictures' size does not fit, or `conditional` is asked of a shard set
            without classes.
    """
    if config.conditional and spec.num_classes == 0:
        raise UsageError(
            "A class-conditional model needs a shard set with classes.",
            where="model.conditional",
            cause="the shard set names no classes",
            remedy="set model.conditional=false, or build the set from one folder per class",
        )
    pyramid = pyramid_for(spec)
    return {
        "generator": Generator(config, spec, pyramid),
        "discriminator": Discriminator(config, spec, pyramid),
    }


FAMILY = Family(
    title="generative adversarial network", config=GANConfig, build=build, served="generator"
)
