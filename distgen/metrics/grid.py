"""Pictures as people see them: bytes from floats, and many of them on one PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor  # what only writes pictures has no need of torch

LEAST_SIDE = 56
"""Smaller pictures are enlarged by a whole factor, until their shorter side is as long."""
_GAP, _BACKGROUND = 2, 255
MAX_PIXELS = 64_000_000
"""Of a whole grid: 8 x 10 pictures of 892x892. Those of larger pictures show them reduced."""


def to_uint8_nhwc(images_nchw: Tensor) -> np.ndarray:
    """Pictures in [-1, 1] as bytes `[n, H, W, C]`: rounded, so that a stored picture comes back.

    Clips `[n, T, C, H, W]` become `[n, T, H, W, C]`. What is not a number becomes mid-grey, and
    what lies outside the range its nearest end.
    """
    known = images_nchw.detach().float().nan_to_num(nan=0.0)
    scaled = known.add(1.0).mul(127.5).round().clamp(0.0, 255.0)
    array: np.ndarray = scaled.byte().movedim(-3, -1).cpu().numpy()
    return np.ascontiguousarray(array)


def grid_png(
    images_nhwc: np.ndarray, *, columns: int | None = None, scale: int | None = None
) -> bytes:
    """A grid of pictures as PNG, row by row.

    Args:
        images_nhwc: uint8 `[n, H, W, 1 or 3]`, n at least 1. For a grid with one class to a row,
            give them sorted by class, and `columns` as the number of pictures in each.
        columns: Pictures to a row; by default the grid is about square.
        scale: Whole factor by which pictures are enlarged, without smoothing; by default the one
            that brings small pictures to `LEAST_SIDE` pixels, and large ones are reduced as
            `reduced_to_fit` says.

    Raises:
        ValueError: There are no pictures, their shape or type is not as above, or the grid would
            have more than `MAX_PIXELS` pixels all the same.
    """
    return png_of(grid(images_nhwc, columns=columns, scale=scale))


def grid(
    images_nhwc: np.ndarray,
    *,
    columns: int | None = None,
    scale: int | None = None,
    column_break: int = 0,
    row_break: int = 0,
) -> np.ndarray:
    """The pixels of such a grid, uint8 `[H, W, 1 or 3]`.

    Args:
        images_nhwc: As above.
        columns: As above.
        scale: As above.
        column_break: So many columns stand a little apart on the left; 0: none.
        row_break: So many rows stand together, a little apart from the next as many; 0: all.

    Raises:
        ValueError: As above.
    """
    if images_nhwc.ndim != 4 or images_nhwc.dtype != np.uint8 or images_nhwc.shape[3] not in (1, 3):
        raise ValueError(
            f"expected uint8 pictures [n, H, W, 1 or 3], got {images_nhwc.dtype} "
            f"{list(images_nhwc.shape)}"
        )
    count = len(images_nhwc)
    if count == 0:
        raise ValueError("a grid needs at least one picture")
    columns = min(columns or int(np.ceil(np.sqrt(count))), count)
    rows = -(-count // columns)
    if scale is None:
        images_nhwc = reduced_to_fit(images_nhwc, rows, columns)
    _, height, width, channels = images_nhwc.shape
    scale = scale or usual_scale(height, width)
    tops = _starts(rows, height * scale, row_break, repeated=True)
    lefts = _starts(columns, width * scale, column_break, repeated=False)
    shape = (tops[-1] + height * scale + _GAP, lefts[-1] + width * scale + _GAP, channels)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise ValueError(f"a grid of {shape[1]}x{shape[0]} pixels is too large; show fewer")
    canvas = np.full(shape, _BACKGROUND, dtype=np.uint8)
    enlarged = images_nhwc.repeat(scale, axis=1).repeat(scale, axis=2)
    for number, picture in enumerate(enlarged):
        row, column = divmod(number, columns)
        top, left = tops[row], lefts[column]
        canvas[top : top + height * scale, left : left + width * scale] = picture
    return canvas


def reduced_to_fit(images_nhwc: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Pictures of which so many rows and columns fit into `MAX_PIXELS`.

    Larger ones are reduced by a whole factor, to the means of squares of pixels, but not below
    `LEAST_SIDE`; smaller ones stay as they are.
    """
    _, height, width, _ = images_nhwc.shape

    def too_large(factor: int) -> bool:
        cells = [-(-side // factor) + 3 * _GAP for side in (height, width)]
        return bool(rows * cells[0] * columns * cells[1] > MAX_PIXELS)

    factor = 1
    while too_large(factor) and min(height, width) // (factor + 1) >= LEAST_SIDE:
        factor += 1
    if factor == 1:
        return images_nhwc
    small = [np.asarray(image_of(picture).reduce(factor)) for picture in images_nhwc]
    return np.stack(small).reshape(len(small), *small[0].shape[:2], -1)


def usual_scale(height: int, width: int) -> int:
    """The factor that brings small pictures to `LEAST_SIDE` pixels."""
    return max(1, -(-LEAST_SIDE // min(height, width)))


def png_of(pixels_hwc: np.ndarray) -> bytes:
    """uint8 pixels `[H, W, 1 or 3]` as PNG."""
    out = io.BytesIO()
    image_of(pixels_hwc).save(out, format="PNG")
    return out.getvalue()


def preview_of(png: bytes, longest: int) -> bytes:
    """A PNG as WebP whose longer side is at most `longest` pixels: for pages that load at once."""
    with Image.open(io.BytesIO(png)) as image:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        image.save(written, "webp", quality=90)
    return written.getvalue()


def image_of(pixels_hwc: np.ndarray) -> Image.Image:
    """uint8 pixels `[H, W, 1 or 3]` as Pillow has them."""
    pixels = pixels_hwc[:, :, 0] if pixels_hwc.shape[2] == 1 else pixels_hwc
    return Image.fromarray(np.ascontiguousarray(pixels))


def _starts(count: int, size: int, every: int, *, repeated: bool) -> list[int]:
    """Where each of `count` cells begins, with a wider gap after `every` of them."""
    breaks = [
        (number // every if repeated else int(number >= every)) if every else 0
        for number in range(count)
    ]
    return [_GAP + n * (size + _GAP) + 4 * _GAP * wide for n, wide in enumerate(breaks)]
