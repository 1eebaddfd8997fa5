"""Changes to pictures on the device: a pure function of (seed, position, sample) and the config.

Every sample draws its numbers from a counter-based hash, SplitMix64's mixer (Steele, Lea and Flood
2014), so that neither ranks nor batches nor a resume change what happens to it. Flips and shifts
move whole pixels and are exact; rotation and crop together are one bilinear resampling.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distgen.core.seeding import derive
from distgen.data.config import AugmentConfig

# A change of what happens to a picture is a change of what every run with augmentation means.
AUGMENT_VERSION = 1

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_DRAWS = (
    "flip", "shift-y", "shift-x", "rotate", "crop", "crop-y", "crop-x", "brightness", "contrast",
    "saturation", "cutout-y", "cutout-x",
)  # fmt: skip
# How much red, green and blue weigh in what the eye takes for grey (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)
_GRID_PADDING = {"reflect": "reflection", "edge": "border", "zero": "zeros"}

Draws = dict[str, np.ndarray]


def augment(
    images_nchw: Tensor,
    samples_n: np.ndarray,
    positions_n: np.ndarray,
    config: AugmentConfig,
    seed: int,
) -> Tensor:
    """Pictures as training sees them at these positions.

    Args:
        images_nchw: float32 in [-1, 1] or uint8, 1 or 3 channels, on any device; not changed. Clips
            are [n, T, C, H, W]: the same happens to all frames of one.
        samples_n: Places in the shard set, int64 [n].
        positions_n: At which position of the stream each comes, int64 [n]. Unlike an epoch, this
            is one number for whole sets, filtered ones and mixes alike, and never comes twice.
        config: What may happen, and how much of it.
        seed: The run's seed.

    Returns:
        As many pictures of the same shape and type, in the same memory format.
    """
    if not config.enabled or not len(images_nchw):
        return images_nchw
    if images_nchw.ndim == 5:
        # The numbers are drawn by sample and position, so frames that share both share them all.
        frames = images_nchw.shape[1]
        samples, positions = np.repeat(samples_n, frames), np.repeat(positions_n, frames)
        changed = augment(images_nchw.flatten(0, 1), samples, positions, config, seed)
        return changed.reshape(images_nchw.shape)
    draws = draw(seed, positions_n, samples_n)
    images = _move_pixels(images_nchw, draws, config)
    if config.resamples or config.recolours:
        exact = images.dtype == torch.uint8
        if exact:
            images = images.float().div_(127.5).sub_(1.0)
        if config.resamples:
            images = _resample(images, draws, config)
        if config.recolours:
            images = _recolour(images, draws, config)
        if exact:
            images = images.add_(1.0).mul_(127.5).round_().to(torch.uint8)
    if config.cutout:
        images = _cut_out(images, draws, config.cutout)
    channels_last = images_nchw.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.contiguous(memory_format=layout)


def draw(seed: int, positions_n: np.ndarray, samples_n: np.ndarray) -> Draws:
    """Uniform numbers in [0, 1) for each purpose, float64 [n]."""
    key = np.uint64(derive(seed, f"augment-{AUGMENT_VERSION}"))
    state = _mixed(
        _mixed(key + positions_n.astype(np.uint64) * _GOLDEN) ^ samples_n.astype(np.uint64)
    )
    numbers = np.arange(1, len(_DRAWS) + 1, dtype=np.uint64)[:, None] * _GOLDEN
    uniform = (_mixed(state + numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return dict(zip(_DRAWS, uniform, strict=True))


def _mixed(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


def _move_pixels(images: Tensor, draws: Draws, config: AugmentConfig) -> Tensor:
    """Shift by whole pixels, then flip."""
    _, channels, height, width = images.shape
    span = 2 * config.shift + 1
    rows, inside_y = _sources(height, np.floor(draws["shift-y"] * span) - config.shift, config)
    columns, inside_x = _sources(width, np.floor(draws["shift-x"] * span) - config.shift, config)
    mirrored = (draws["flip"] < config.flip)[:, None]
    columns = np.where(mirrored, columns[:, ::-1], columns)
    inside_x = np.where(mirrored, inside_x[:, ::-1], inside_x)
    if config.shift:
        index = _to(rows, images)[:, None, :, None].expand(-1, channels, -1, width)
        images = images.gather(2, index)
    if config.shift or config.flip:
        index = _to(columns, images)[:, None, None, :].expand(-1, channels, height, -1)
        images = images.gather(3, index)
    if config.shift and config.padding == "zero":
        inside = _to(inside_y, images)[:, None, :, None] & _to(inside_x, images)[:, None, None, :]
        images = torch.where(inside, images, torch.full_like(images, _middle(images)))
    return images


def _sources(
    side: int, shifts_n: np.ndarray, config: AugmentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Which row (or column) comes to each place, int64 [n, side], and whether it exists."""
    wanted = np.arange(side) - shifts_n.astype(np.int64)[:, None]
    inside = (wanted >= 0) & (wanted < side)
    if config.padding == "reflect" and side > 1:
        around = np.abs(wanted) % (2 * side - 2)
        return np.minimum(around, 2 * side - 2 - around), inside
    return wanted.clip(0, side - 1), inside


def _resample(images: Tensor, draws: Draws, config: AugmentConfig) -> Tensor:
    """Rotate about the middle and take a part of each picture, both in one step."""
    _, _, height, width = images.shape
    angles = np.radians(config.rotate) * (2 * draws["rotate"] - 1)
    scale = 1 - config.crop * draws["crop"]
    cos, sin = scale * np.cos(angles), scale * np.sin(angles)
    # From places in the result to places in the picture, both in [-1, 1]; sides may differ.
    theta = np.stack(
        [
            np.stack([cos, -sin * height / width, (1 - scale) * (2 * draws["crop-x"] - 1)], -1),
            np.stack([sin * width / height, cos, (1 - scale) * (2 * draws["crop-y"] - 1)], -1),
        ],
        axis=1,
    )
    grid = F.affine_grid(
        _to(theta.astype(np.float32), images), list(images.shape), align_corners=False
    )
    padding = _GRID_PADDING[config.padding]
    moved = F.grid_sample(images, grid, "bilinear", padding, align_corners=False)
    return moved.clamp_(-1.0, 1.0)


def _recolour(images: Tensor, draws: Draws, config: AugmentConfig) -> Tensor:
    def around_zero(name: str, most: float) -> Tensor:
        values = most * (2 * draws[name] - 1)
        return _to(values.astype(np.float32), images)[:, None, None, None]

    if config.saturation and images.shape[1] == 3:
        grey = sum(weight * images[:, i : i + 1] for i, weight in enumerate(_GREY))
        images = grey + (images - grey) * (1 + around_zero("saturation", config.saturation))
    images = images * (1 + around_zero("contrast", config.contrast))
    return (images + 2 * around_zero("brightness", config.brightness)).clamp_(-1.0, 1.0)


def _cut_out(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Grey squares over parts of the pictures (DeVries and Taylor 2017)."""
    _, _, height, width = images.shape
    side = max(1, round(share * min(height, width)))

    def covered(name: str, length: int) -> np.ndarray:
        first = np.floor(draws[name] * length)[:, None] - side // 2
        places = np.arange(length)
        return np.asarray((places >= first) & (places < first + side))

    rows = _to(covered("cutout-y", height), images)[:, None, :, None]
    columns = _to(covered("cutout-x", width), images)[:, None, None, :]
    return images.masked_fill(rows & columns, _middle(images))


def _middle(images: Tensor) -> float:
    return 128 if images.dtype == torch.uint8 else 0.0


def _to(values: np.ndarray, images: Tensor) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if images.is_cuda:  # from memory that is not pinned, a copy waits for all work that is queued
        tensor = tensor.pin_memory()
    return tensor.to(images.device, non_blocking=True)
