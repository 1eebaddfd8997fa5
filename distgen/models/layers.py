"""Parts that the convolutional families share. Nothing here mixes the samples of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec

SLOPE = 0.2
"""Negative slope of every leaky ReLU."""

L = TypeVar("L", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

SMALLEST_BASE, LARGEST_BASE = 4, 7


@dataclass(frozen=True)
class Pyramid:
    """The resolutions of a convolutional network: a base grid, doubled `doublings` times."""

    base_height: int
    base_width: int
    doublings: int

    def widths(self, width: int) -> tuple[int, ...]:
        """Channels per level, coarse to fine, without the finest: halved, but at least width / 4.

        A finer level has four times the pixels, so this spends about the same time on each.
        """
        return tuple(max(width >> level, width // 4, 1) for level in range(self.doublings))


def pyramid_for(spec: ImageSpec) -> Pyramid:
    """The pyramid that ends in pictures of this size.

    Raises:
        UsageError: The size is not (4, 5, 6 or 7) times a power of two, the same power for height
            and width.
    """
    height, width = _split(spec.height), _split(spec.width)
    if height is None or width is None or height[1] != width[1]:
        raise UsageError(
            f"Pictures of {spec.width}x{spec.height} pixels do not fit a convolutional network.",
            where="data.shards",
            cause="each side must be 4, 5, 6 or 7 times the same power of two, "
            "for example 16, 28, 32, 48 or 64",
            remedy="build the shard set again with --size "
            f"{_nearest_size(max(spec.height, spec.width))}",
        )
    return Pyramid(height[0], width[0], height[1])


def _split(side: int) -> tuple[int, int] | None:
    """`side` as (base, doublings) with the base in 4..7, or None."""
    doublings = max(side.bit_length() - 3, 1)
    base = side >> doublings
    fits = SMALLEST_BASE <= base <= LARGEST_BASE and base << doublings == side
    return (base, doublings) if fits else None


def _nearest_size(side: int) -> int:
    sizes = [base << k for base in range(SMALLEST_BASE, LARGEST_BASE + 1) for k in range(1, 12)]
    return min(sizes, key=lambda size: (abs(size - side), -size))


LINEAR = math.sqrt((1.0 + SLOPE**2) / 2.0)
"""Gain of a layer whose input no leaky ReLU has thinned out."""


def scaled(layer: L, gain: float = 1.0) -> L:
    """The layer with zero biases and variance-preserving weights for leaky ReLU, times `gain`.

    He et al. 2015, equation 15. A small gain on a residual branch's last layer takes the place of
    normalisation (Zhang, Dauphin & Ma 2019).
    """
    if isinstance(layer, nn.ConvTranspose2d):
        # Each output pixel is reached by one in stride^2 of the kernel's taps.
        fan_in = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
    else:
        fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain * math.sqrt(2.0 / (1.0 + SLOPE**2) / fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv(inputs: int, outputs: int, *, gain: float = 1.0) -> nn.Conv2d:
    """A 3x3 convolution that keeps the resolution."""
    return scaled(nn.Conv2d(inputs, outputs, 3, padding=1), gain)


def linear(inputs: int, outputs: int, *, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A dense layer."""
    return scaled(nn.Linear(inputs, outputs, bias=bias), gain)


def activate(features: Tensor) -> Tensor:
    """Leaky ReLU: piecewise linear, so gradient penalties differentiate it twice at no cost."""
    return F.leaky_relu(features, SLOPE)


Activation = Callable[[Tensor], Tensor]


class ResidualBlock(nn.Module):
    """x + f(x) with f two 3x3 convolutions, at one resolution and width.

    Args:
        width: Channels in and out.
        branch_gain: Scale of the branch at the start; about the inverse root of the number of
            blocks keeps the output's variance near that of the input.
        activation: Before each convolution.
    """

    def __init__(self, width: int, branch_gain: float, activation: Activation = activate) -> None:
        super().__init__()
        self.activation = activation
        self.first = conv(width, width)
        self.second = conv(width, width, gain=branch_gain)

    def forward(self, features_nchw: Tensor) -> Tensor:
        """Features of the same shape."""
        branch: Tensor = self.second(self.activation(self.first(self.activation(features_nchw))))
        return features_nchw + branch


class ClassEmbedding(nn.Module):
    """A learned vector for each class; the label -1 (unknown) is the zero vector."""

    def __init__(self, num_classes: int, width: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes, width)
        nn.init.normal_(self.table.weight, std=scale)

    def forward(self, labels_n: Tensor | None) -> Tensor:
        """Vectors [n, width].

        Raises:
            ValueError: No labels are given.
        """
        if labels_n is None:
            raise ValueError("a class-conditional network needs labels; -1 stands for unknown")
        vectors: Tensor = self.table(labels_n.clamp_min(0))
        return vectors * (labels_n >= 0).unsqueeze(1)


class Contract(nn.Module):
    """Pictures to flat features [n, size]: residual blocks and strided convolutions by turns.

    The finest level of the pyramid is left at once, by a strided convolution: on CPUs and GPUs
    alike, few channels at full resolution cost the most time and learn the least.
    """

    def __init__(
        self,
        channels: int,
        pyramid: Pyramid,
        width: int,
        blocks: int,
        activation: Activation = activate,
    ) -> None:
        super().__init__()
        self.activation = activation
        widths = pyramid.widths(width)[::-1]
        gain = branch_gain(len(widths) * blocks)
        self.from_image = scaled(nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), LINEAR)
        self.stages = nn.ModuleList(
            residual_blocks(each, blocks, gain, activation) for each in widths
        )
        self.downs = nn.ModuleList(
            scaled(nn.Conv2d(fine, coarse, 4, stride=2, padding=1), LINEAR)
            for fine, coarse in pairwise(widths)
        )
        self.size = width * pyramid.base_height * pyramid.base_width

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Flat features [n, size], activated."""
        return self.activation(self.levels(images_nchw)[-1]).flatten(1)

    def levels(self, images_nchw: Tensor) -> list[Tensor]:
        """Features [n, channels, h, w] of each resolution, fine to coarse, not activated."""
        features = [self.stages[0](self.from_image(images_nchw))]
        for down, stage in zip(self.downs, self.stages[1:], strict=True):
            features.append(stage(down(features[-1])))
        return features


class Expand(nn.Module):
    """Vectors [n, inputs] to pictures, scaled by `image_gain`: the mirror image of `Contract`.

    Where `inputs` is None, it starts from features of the base's shape in the place of vectors.
    """

    def __init__(
        self,
        inputs: int | None,
        channels: int,
        pyramid: Pyramid,
        width: int,
        blocks: int,
        activation: Activation = activate,
        image_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        widths = pyramid.widths(width)
        gain = branch_gain(len(widths) * blocks)
        self.base_shape = (width, pyramid.base_height, pyramid.base_width)
        size = math.prod(self.base_shape)
        self.base = None if inputs is None else linear(inputs, size, gain=LINEAR)
        self.stages = nn.ModuleList(
            residual_blocks(each, blocks, gain, activation) for each in widths
        )
        self.ups = nn.ModuleList(
            scaled(nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1), LINEAR)
            for coarse, fine in pairwise(widths)
        )
        self.to_image = scaled(
            nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1), image_gain
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Unbounded pictures [n, c, h, w]."""
        features = inputs
        if self.base is not None:
            features = self.base(inputs).unflatten(1, self.base_shape)
        features = self.stages[0](features)
        for up, stage in zip(self.ups, self.stages[1:], strict=True):
            features = stage(up(features))
        images_nchw: Tensor = self.to_image(self.activation(features))
        return images_nchw


def residual_blocks(
    width: int, count: int, gain: float, activation: Activation = activate
) -> nn.Sequential:
    """A run of residual blocks at one resolution."""
    return nn.Sequential(*(ResidualBlock(width, gain, activation) for _ in range(count)))


def branch_gain(num_blocks: int) -> float:
    """The start scale of each of `num_blocks` residual branches in a row."""
    return 1.0 / math.sqrt(max(num_blocks, 1))
