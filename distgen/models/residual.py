"""Residual trunks without normalisation, in the manner of R3GAN (Huang et al. 2024).

Each block is 1x1 -> grouped 3x3 -> 1x1 with the wide part in the middle, as in ResNeXt and
ConvNeXt; resolutions change by a binomial filter and never inside a convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.errors import UsageError
from distgen.models.layers import LINEAR, Pyramid, activate, linear, scaled

FULL_WIDTH_SIDE = 32
"""Up to this side all resolutions have the same width; beyond it each doubling halves the width."""
START = 0.1
"""Scale of a branch's last layer at the start: nearly silent, yet all layers learn at once."""


@dataclass(frozen=True)
class Shape:
    """The levels of a residual network, coarse to fine, and what its blocks are made of."""

    pyramid: Pyramid
    widths: tuple[int, ...]
    """Channels of each level."""
    blocks: int
    """Residual blocks per level."""
    expansion: int
    """Channels in the middle of a block for each one outside."""
    group_size: int
    """Channels of a group of the 3x3 convolution, at most."""
    patch: int
    """Side, in pixels, of what a place at the finest level stands for."""


def shape_for(
    pyramid: Pyramid,
    *,
    width: int,
    widths: tuple[int, ...] | None,
    blocks: int,
    expansion: int,
    group_size: int,
    patch: int,
) -> Shape:
    """The shape of a network that ends in the pyramid's pictures.

    Args:
        pyramid: The resolutions.
        width: Channels at the coarse levels, where `widths` is None.
        widths: Channels of each level, coarse to fine.
        blocks: Residual blocks per level.
        expansion: Channels in the middle of a block for each one outside.
        group_size: Channels of a group of the 3x3 convolution.
        patch: 1, or 2 for no level at full resolution.

    Raises:
        UsageError: The number of `widths` is not that of the levels, or the middle of a block does
            not divide into groups.
    """
    levels = pyramid.doublings + 2 - patch
    if widths is None:
        longer = max(pyramid.base_height, pyramid.base_width)
        full = sum(longer << level <= FULL_WIDTH_SIDE for level in range(levels))
        widths = tuple(max(width >> max(0, level + 1 - full), 1) for level in range(levels))
    elif len(widths) != levels:
        raise UsageError(
            f"The residual network has {levels} resolutions here, not {len(widths)}.",
            where="model.widths",
            cause=f"from {pyramid.base_width}x{pyramid.base_height} pixels, doubled "
            f"{levels - 1} times",
            remedy=f"give {levels} numbers of channels, coarse to fine, or leave the key out",
        )
    for each in widths:
        middle = each * expansion
        if middle % min(group_size, middle):
            whole = group_size // math.gcd(group_size, expansion)
            raise UsageError(
                f"{middle} channels in the middle of a block do not divide into groups of "
                f"{group_size}.",
                where="model.group_size",
                cause=f"{each} channels times an expansion of {expansion}",
                remedy=f"use multiples of {whole} as widths, or a smaller model.group_size",
            )
    return Shape(pyramid, widths, blocks, expansion, group_size, patch)


class Pointwise(nn.Linear):
    """A 1x1 convolution as what it is, a matrix product: its second derivative costs far less."""

    def forward(self, features_nchw: Tensor) -> Tensor:
        """Other channels at each place; where the input is channels_last, nothing is moved."""
        return super().forward(features_nchw.movedim(1, -1)).movedim(-1, 1)


def pointwise(inputs: int, outputs: int, gain: float, *, bias: bool = True) -> Pointwise:
    """A 1x1 convolution with scaled weights (see `scaled`)."""
    layer = Pointwise(inputs, outputs, bias=bias)
    scaled(layer, gain)
    return layer


class Bottleneck(nn.Module):
    """x + f(x), with f a 1x1, a grouped 3x3 and a 1x1 convolution; the middle is the wide part.

    Two layers in three are scaled down by the fourth root of the number of blocks and the last one
    starts nearly silent, which takes the place of normalisation (Zhang, Dauphin & Ma 2019).

    Args:
        width: Channels in and out.
        shape: The network's.
    """

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        middle = width * shape.expansion
        groups = middle // min(shape.group_size, middle)
        gain = (len(shape.widths) * shape.blocks) ** -0.25
        self.widen = pointwise(width, middle, gain * LINEAR)
        self.spread = scaled(nn.Conv2d(middle, middle, 3, padding=1, groups=groups), gain)
        self.narrow = pointwise(middle, width, START, bias=False)

    def forward(self, features_nchw: Tensor) -> Tensor:
        """Features of the same shape."""
        wide: Tensor = activate(self.spread(activate(self.widen(features_nchw))))
        branch: Tensor = self.narrow(wide)
        return features_nchw + branch


def upsample(features_nchw: Tensor) -> Tensor:
    """Twice the resolution: zeros between the rows and columns, and [1, 3, 3, 1] / 4 over them."""
    doubled: Tensor = _Up.apply(features_nchw)  # type: ignore[no-untyped-call]
    return doubled


def downsample(features_nchw: Tensor) -> Tensor:
    """Half the resolution: [1, 3, 3, 1] / 8 over rows and columns, and every second kept."""
    halved: Tensor = _Down.apply(features_nchw)  # type: ignore[no-untyped-call]
    return halved


def _binomial(features_nchw: Tensor) -> Tensor:
    """The filter's weights [channels, 1, 4, 4], with a sum of 1."""
    # Made where it is used: a constant of four numbers is no weight, and no buffer to keep.
    taps = 4.0 - 2.0 * (torch.arange(4.0, device=features_nchw.device) - 1.5).abs()
    kernel = (torch.outer(taps, taps) / 64.0).to(features_nchw.dtype)
    return kernel.expand(features_nchw.shape[1], 1, 4, 4)


# Each is four times, or a quarter of, the other's transpose, so each is the other's derivative, and
# its derivative's derivative. Left to itself, autograd takes ten times as long for the second.
class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_nchw: Tensor) -> Tensor:  # noqa: ARG004
        kernel, groups = _binomial(features_nchw), features_nchw.shape[1]
        return F.conv2d(features_nchw, kernel, stride=2, padding=1, groups=groups)

    @staticmethod
    def backward(ctx: Any, gradients_nchw: Tensor) -> Tensor:  # noqa: ARG004
        gradients: Tensor = _Up.apply(gradients_nchw)  # type: ignore[no-untyped-call]
        return gradients * 0.25


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_nchw: Tensor) -> Tensor:  # noqa: ARG004
        kernel, groups = 4.0 * _binomial(features_nchw), features_nchw.shape[1]
        return F.conv_transpose2d(features_nchw, kernel, stride=2, padding=1, groups=groups)

    @staticmethod
    def backward(ctx: Any, gradients_nchw: Tensor) -> Tensor:  # noqa: ARG004
        gradients: Tensor = _Down.apply(gradients_nchw)  # type: ignore[no-untyped-call]
        return gradients * 4.0


class ResidualExpand(nn.Module):
    """Vectors [n, inputs] to pictures: a learned base grid, then blocks and doublings by turns."""

    def __init__(self, inputs: int, channels: int, shape: Shape) -> None:
        super().__init__()
        coarsest, finest = shape.widths[0], shape.widths[-1]
        base = (coarsest, shape.pyramid.base_height, shape.pyramid.base_width)
        self.base = nn.Parameter(torch.randn(base))
        self.modulation = linear(inputs, coarsest, gain=LINEAR, bias=False)
        self.stages = nn.ModuleList(_stage(width, shape) for width in shape.widths)
        self.changes = nn.ModuleList(_change(*pair) for pair in pairwise(shape.widths))
        self.to_image = (
            pointwise(finest, channels, LINEAR) if shape.patch == 1 else Smooth(finest, channels)
        )

    def forward(self, vectors_ni: Tensor) -> Tensor:
        """Unbounded pictures [n, c, h, w]."""
        features = self.base * self.modulation(vectors_ni)[:, :, None, None]
        # A product has no layout of its own; the networks' is the faster one.
        features = self.stages[0](features.contiguous(memory_format=torch.channels_last))
        for change, stage in zip(self.changes, self.stages[1:], strict=True):
            features = stage(upsample(change(features)))
        images_nchw: Tensor = self.to_image(features)
        return images_nchw


class Smooth(nn.Module):
    """Pictures of twice the resolution, without a level of blocks there.

    Features are doubled by the filter, as everywhere, and only then weighed: a transposed
    convolution, which paints 2x2 pixels from each place, leaves its pattern on every picture.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        middle = max(1, inputs // 2)
        self.narrow = pointwise(inputs, middle, 1.0)
        self.weigh = scaled(nn.Conv2d(middle, channels, 3, padding=1), LINEAR)

    def forward(self, features_nchw: Tensor) -> Tensor:
        """Unbounded pictures [n, channels, 2 h, 2 w]."""
        images_nchw: Tensor = self.weigh(activate(upsample(self.narrow(features_nchw))))
        return images_nchw


class ResidualContract(nn.Module):
    """Pictures to features [n, size]: the mirror image of `ResidualExpand`."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        widths = shape.widths[::-1]
        self.size = widths[-1]
        self.from_image = (
            pointwise(channels, widths[0], LINEAR)
            if shape.patch == 1
            else scaled(nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), LINEAR)
        )
        self.stages = nn.ModuleList(_stage(width, shape) for width in widths)
        self.changes = nn.ModuleList(_change(*pair) for pair in pairwise(widths))
        base = (shape.pyramid.base_height, shape.pyramid.base_width)
        self.base = scaled(
            nn.Conv2d(self.size, self.size, base, groups=self.size, bias=False), LINEAR
        )

    def forward(self, images_nchw: Tensor) -> Tensor:
        """One number for each channel of the coarsest level [n, size], not activated."""
        features = self.stages[0](self.from_image(images_nchw))
        for change, stage in zip(self.changes, self.stages[1:], strict=True):
            features = stage(change(downsample(features)))
        vectors_nc: Tensor = self.base(features).flatten(1)
        return vectors_nc


def _stage(width: int, shape: Shape) -> nn.Sequential:
    return nn.Sequential(*(Bottleneck(width, shape) for _ in range(shape.blocks)))


def _change(inputs: int, outputs: int) -> nn.Module:
    if inputs == outputs:
        return nn.Identity()
    return pointwise(inputs, outputs, LINEAR, bias=False)


def minibatch_deviation(features_nf: Tensor, group: int, sets: int = 1) -> Tensor:
    """How much samples differ from their like: one number each [n, 1] (Karras et al. 2018).

    The standard deviation over a group, averaged over features. Groups take every
    (n / group)-th row of a set, as ranks take every size-th of the batch and parts every k-th of
    a rank's: so a group has the same samples however the batch is divided.

    Args:
        features_nf: Features [n, features].
        group: Samples to a group.
        sets: As many batches lie behind one another in the rows, and none shares a group with
            another.

    Raises:
        ValueError: The rows do not divide into groups.
    """
    rows = len(features_nf)
    if rows % (sets * group):
        raise ValueError(f"{rows} rows in {sets} sets do not divide into groups of {group}")
    grouped = features_nf.float().reshape(sets, group, rows // (sets * group), -1)
    # The root is not differentiable at zero.
    deviations = (grouped.var(dim=1, correction=0) + 1e-8).sqrt().mean(-1)
    each = deviations[:, None].expand(-1, group, -1)
    return each.reshape(rows, 1).to(features_nf.dtype)
