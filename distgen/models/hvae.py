"""Hierarchical variational autoencoder: a vector, then feature maps of latents, coarse to fine.

A top-down ladder (Soenderby et al. 2016; Kingma et al. 2016) without normalisation, in the manner
of the very deep VAE (Child 2021), and small: the encoder's features cost nothing per posterior
sample, and prior and posterior share one convolution of the features above them.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.config import Config
from distgen.core.spec import ImageSpec
from distgen.models.base import Family
from distgen.models.gaussians import DiagonalGaussian
from distgen.models.hierarchy import HierarchicalModel
from distgen.models.layers import (
    LINEAR,
    Contract,
    Pyramid,
    ResidualBlock,
    branch_gain,
    conv,
    linear,
    pyramid_for,
    residual_blocks,
    scaled,
)
from distgen.models.likelihoods import LikelihoodName, build_likelihood


class HVAEConfig(Config):
    """Hierarchical variational autoencoder (Soenderby et al. 2016; Child 2021), convolutional."""

    family: Literal["hvae"] = "hvae"
    latent_dim: int = Field(default=32, ge=1, le=65_536)
    """Size of the vector at the top; the maps of latents come on top of it."""
    latent_maps: int = Field(default=4, ge=1, le=1024)
    """Latent channels of a group at the coarsest resolution; halved with each doubling, down to
    one."""
    map_levels: int = Field(default=2, ge=1, le=16)
    """Resolutions that have maps of latents, from the coarsest on; all where there are fewer."""
    width: int = Field(default=64, ge=4, le=8192)
    """Channels at the coarsest resolution; halved with each doubling, down to a quarter."""
    blocks: int = Field(default=1, ge=1, le=64)
    """Residual blocks per resolution, bottom-up and top-down; each of those top-down draws a group
    of maps of its own."""
    hidden: int = Field(default=256, ge=4, le=8192)
    """Units of the dense layers between the vector and the coarsest maps."""
    likelihood: LikelihoodName = "bernoulli"
    """`bernoulli` (stochastically binarised pixels), `gaussian` (grey levels or colours), or
    `logistic` or `logistic-mixture` (8-bit values themselves)."""


def pointwise(inputs: int, outputs: int, *, gain: float = 1.0) -> nn.Conv2d:
    """A 1x1 convolution."""
    return scaled(nn.Conv2d(inputs, outputs, 1), gain)


class BottomUp(nn.Module):
    """Observed pictures to the first group's parameters and a message to each further group."""

    def __init__(
        self, config: HVAEConfig, spec: ImageSpec, pyramid: Pyramid, levels: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.trunk = Contract(spec.channels, pyramid, config.width, config.blocks, F.silu)
        self.levels = levels
        widths = pyramid.widths(config.width)
        self.messages = nn.ModuleList(pointwise(widths[each], widths[each]) for each in levels)
        self.hidden = linear(self.trunk.size, config.hidden)
        self.posterior = linear(config.hidden, 2 * config.latent_dim, gain=0.1)

    def forward(self, observed_nchw: Tensor) -> tuple[Tensor, ...]:
        """Parameters [n, 2 * latent_dim], and messages [n, width, height, width] by group."""
        features = [F.silu(each) for each in self.trunk.levels(observed_nchw)][::-1]
        parameters: Tensor = self.posterior(F.silu(self.hidden(features[0].flatten(1))))
        messages = (
            message(features[level])
            for message, level in zip(self.messages, self.levels, strict=True)
        )
        return (parameters, *messages)


class Top(nn.Module):
    """The vector of latents to features of the coarsest grid, through a dense layer."""

    def __init__(self, config: HVAEConfig, pyramid: Pyramid) -> None:
        super().__init__()
        self.shape = (config.width, pyramid.base_height, pyramid.base_width)
        self.hidden = linear(config.latent_dim, config.hidden, gain=LINEAR)
        self.base = linear(config.hidden, math.prod(self.shape))

    def forward(self, latents_nd: Tensor) -> Tensor:
        """Features [n, width, base height, base width]."""
        features: Tensor = self.base(F.silu(self.hidden(latents_nd)))
        return features.reshape(-1, *self.shape)


class MapGroup(nn.Module):
    """A group of latent maps at one resolution, and the block that follows; a `LatentGroup`.

    Args:
        width: Channels of the features.
        shape: Latent channels, rows and columns.
        gain: Scale of the residual branches at the start.
        leave: Brings the features to the next group's resolution, where that is another.
    """

    def __init__(
        self, width: int, shape: tuple[int, int, int], gain: float, leave: nn.Module | None
    ) -> None:
        super().__init__()
        self.shape = shape
        self.context = conv(width, width)
        self.prior = pointwise(width, 2 * shape[0], gain=0.1)
        self.relative = pointwise(width, 2 * shape[0], gain=0.1)
        self.from_context = pointwise(width, width, gain=gain)
        self.from_latents = pointwise(shape[0], width, gain=gain)
        self.block = ResidualBlock(width, gain, F.silu)
        self.leave = leave or nn.Identity()

    def look(self, features: Tensor) -> Tensor:
        """The context [n, width, rows, columns]."""
        context: Tensor = self.context(F.silu(features))
        return context

    def posterior(self, context: Tensor, message: Tensor) -> DiagonalGaussian:
        """The posterior in units of the prior, [n, latent channels, rows, columns]."""
        mean, raw = self.relative(F.silu(context + message)).float().chunk(2, dim=1)
        return DiagonalGaussian.of(mean, raw)

    def absorb(self, features: Tensor, context: Tensor, latents: Tensor) -> Tensor:
        """Features that know the latents, after a residual block, at the next resolution."""
        seen = F.silu(context)
        mean, raw = self.prior(seen).float().chunk(2, dim=1)
        maps = DiagonalGaussian.of(mean, raw).sample(latents)
        features = features + self.from_context(seen) + self.from_latents(maps)
        left: Tensor = self.leave(self.block(features))
        return left


def build(config: HVAEConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """The one network, `model`.

    Raises:
        UsageError: The pictures' size does not fit.
    """
    pyramid = pyramid_for(spec)
    widths = pyramid.widths(config.width)
    with_maps = min(config.map_levels, len(widths))
    levels = tuple(level for level in range(with_maps) for _ in range(config.blocks))
    likelihood = build_likelihood(config.likelihood)
    model = HierarchicalModel(
        encoder=BottomUp(config, spec, pyramid, levels),
        top=Top(config, pyramid),
        groups=_groups(config, pyramid, levels),
        decoder=_decoder(
            config, pyramid, with_maps, spec.channels * likelihood.outputs_per_channel
        ),
        likelihood=likelihood,
        first_dim=config.latent_dim,
    )
    return {"model": model}


def _groups(config: HVAEConfig, pyramid: Pyramid, levels: tuple[int, ...]) -> list[MapGroup]:
    widths = pyramid.widths(config.width)
    gain = branch_gain(2 * len(widths) * config.blocks)
    groups = []
    for level, following in zip(levels, (*levels[1:], levels[-1] + 1), strict=True):
        maps = max(1, config.latent_maps >> level)
        shape = (maps, pyramid.base_height << level, pyramid.base_width << level)
        leaves = level < following < len(widths)
        leave = _up(widths[level], widths[following]) if leaves else None
        groups.append(MapGroup(widths[level], shape, gain, leave))
    return groups


def _decoder(config: HVAEConfig, pyramid: Pyramid, first: int, outputs: int) -> nn.Module:
    """What makes pictures of the last group's features: levels without maps, and the finest."""
    widths = pyramid.widths(config.width)
    gain = branch_gain(2 * len(widths) * config.blocks)
    parts: list[nn.Module] = []
    for level in range(first, len(widths)):
        parts.append(residual_blocks(widths[level], config.blocks, gain, F.silu))
        if level + 1 < len(widths):
            parts.append(_up(widths[level], widths[level + 1]))
    # Small at first: what a likelihood makes of wild outputs are steep gradients.
    to_image = scaled(nn.ConvTranspose2d(widths[-1], outputs, 4, stride=2, padding=1), 0.1)
    return nn.Sequential(*parts, nn.SiLU(), to_image)


def _up(inputs: int, outputs: int) -> nn.Module:
    return scaled(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), LINEAR)


FAMILY = Family(
    title="hierarchical variational autoencoder", config=HVAEConfig, build=build, served="model"
)
