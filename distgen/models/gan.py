"""Generator and discriminator without normalisation, convolutional or residual (R3GAN)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
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
from distgen.models.residual import (
    ResidualContract,
    ResidualExpand,
    Shape,
    minibatch_deviation,
    shape_for,
)

GROUP = 4
"""Samples that the minibatch standard deviation compares."""
_RESIDUAL_ONLY = ("widths", "expansion", "group_size", "patch")


class GANConfig(Config):
    """Generative adversarial network (Goodfellow et al. 2014), convolutional or residual."""

    family: Literal["gan"] = "gan"
    network: Literal["convolutional", "residual"] = "convolutional"
    """Strided 4x4 and pairs of 3x3 convolutions, or filtered resampling and inverted bottlenecks
    with grouped 3x3 convolutions (R3GAN)."""
    latent_dim: int = Field(default=64, ge=1, le=65_536)
    """Size of the latent vector."""
    width: int = Field(default=64, ge=4, le=8192)
    """Channels at the coarsest resolution. Convolutional: halved with each doubling, down to a
    quarter. Residual: kept up to 32 pixels and halved with each doubling beyond."""
    blocks: int = Field(default=1, ge=1, le=64)
    """Residual blocks per resolution, in each network."""
    conditional: bool = False
    """Whether pictures are made by class; needs a shard set with classes."""
    minibatch_deviation: bool = False
    """Whether the discriminator sees how much 4 samples of a batch differ (Karras et al. 2018)."""
    widths: tuple[Annotated[int, Field(ge=4, le=8192)], ...] | None = None
    """Residual: channels of each resolution, coarse to fine; left out, they follow from width."""
    expansion: int = Field(default=2, ge=1, le=16)
    """Residual: channels in the middle of a block for each one outside."""
    group_size: int = Field(default=64, ge=1, le=8192)
    """Residual: channels of each group of the 3x3 convolutions, at most."""
    patch: Literal[1, 2] = 1
    """Residual: 2 leaves out the blocks at full resolution, which cost the most."""

    @model_validator(mode="after")
    def _keys_are_read(self) -> GANConfig:
        fields = type(self).model_fields
        changed = [key for key in _RESIDUAL_ONLY if getattr(self, key) != fields[key].default]
        if changed and self.network != "residual":
            raise ValueError(f"{', '.join(changed)} belong to network: residual")
        return self


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
        self.trunk = (
            ResidualExpand(inputs, spec.channels, _shape(config, pyramid))
            if config.network == "residual"
            else Expand(inputs, spec.channels, pyramid, config.width, config.blocks)
        )

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
        self.trunk: ResidualContract | Contract = (
            ResidualContract(spec.channels, _shape(config, pyramid))
            if config.network == "residual"
            else Contract(spec.channels, pyramid, config.width, config.blocks)
        )
        self.group = rows_together(config)
        self.features = linear(self.trunk.size + (self.group > 1), config.width)
        self.score = linear(config.width, 1, gain=0.5, bias=False)
        self.embedding = (
            ClassEmbedding(spec.num_classes, config.width, scale=(2 * config.width) ** -0.5)
            if config.conditional
            else None
        )

    def forward(self, images_nchw: Tensor, labels_n: Tensor | None = None, sets: int = 1) -> Tensor:
        """Scores [n], higher for pictures that look real (for their class).

        Args:
            images_nchw: Pictures in [-1, 1].
            labels_n: Class indices [n]; None for an unconditional model, which ignores them.
            sets: As many batches, such as real and generated pictures, lie behind one another in
                the rows; samples are compared with those of their own batch only.
        """
        features_nf = self.trunk(images_nchw)
        if self.group > 1:
            deviations_n1 = minibatch_deviation(features_nf, self.group, sets)
            features_nf = torch.cat((features_nf, deviations_n1), dim=1)
        features_nf = activate(self.features(features_nf))
        scores_n: Tensor = self.score(features_nf).squeeze(1)
        if self.embedding is not None:
            scores_n = scores_n + (features_nf * self.embedding(labels_n)).sum(1)
        return scores_n


def rows_together(config: GANConfig) -> int:
    """Samples that the discriminator compares with one another: 1 where it looks at each alone."""
    return GROUP if config.minibatch_deviation else 1


def build(config: GANConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """The generator and the discriminator.

    Raises:
        UsageError: The pictures' size does not fit, `conditional` is asked of a shard set without
            classes, or the channels of a residual network do not divide.
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


def _shape(config: GANConfig, pyramid: Pyramid) -> Shape:
    return shape_for(
        pyramid,
        width=config.width,
        widths=config.widths,
        blocks=config.blocks,
        expansion=config.expansion,
        group_size=config.group_size,
        patch=config.patch,
    )


FAMILY = Family(
    title="generative adversarial network",
    config=GANConfig,
    build=build,
    served="generator",
    rows_together=rows_together,
)
