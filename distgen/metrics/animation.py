"""Clips as people see them: side by side on a sheet, and moving."""

from __future__ import annotations

import io
import math
from typing import Literal, get_args

import numpy as np
from PIL import Image

from distgen.data.inspect import spread
from distgen.metrics.grid import grid, image_of, png_of, usual_scale

AnimationFormat = Literal["gif", "webp"]
ANIMATION_FORMATS: tuple[str, ...] = get_args(AnimationFormat)
FRAMES_PER_SECOND = 10
"""Of clips whose set says nothing of time; GIF counts in hundredths of a second."""

_SHEET_WIDTH = 2560  # pixels, about
_FEWEST_FRAMES, _MOST_FRAMES = 4, 20
_MOVING_PIXELS = 3_000_000  # of all frames of a moving grid: a few megabytes of GIF at most


def sheet_png(clips_nthwc: np.ndarray, *, context: int = 0, together: int = 0) -> bytes:
    """A contact sheet as PNG: one clip to a row, its frames side by side.

    Of long or large clips some frames are shown, evenly apart, the first and the last among them.

    Args:
        clips_nthwc: uint8 `[n, T, H, W, 1 or 3]`, n and T at least 1.
        context: Frames that stand apart on the left, such as those that the others are predicted
            from; 0: none.
        together: Rows that belong together, such as a clip and its prediction; 0: all are alike.

    Raises:
        ValueError: The shape or type is not as above, or the sheet would be absurdly large.
    """
    _check(clips_nthwc)
    _, frames, height, width, _ = clips_nthwc.shape
    room = _SHEET_WIDTH // (width * usual_scale(height, width))
    shown = spread(frames, min(_MOST_FRAMES, max(_FEWEST_FRAMES, room)))
    pictures = clips_nthwc[:, shown].reshape(-1, *clips_nthwc.shape[2:])
    given = int((shown < context).sum())
    return png_of(grid(pictures, columns=len(shown), column_break=given, row_break=together))


def moving_grid(clips_nthwc: np.ndarray, *, columns: int | None = None) -> np.ndarray:
    """Clips that play at the same time, as the frames `[T, H, W, 1 or 3]` of one.

    Args:
        clips_nthwc: uint8 `[n, T, H, W, 1 or 3]`.
        columns: Clips to a row; by default the grid is about square.

    Raises:
        ValueError: As `sheet_png`.
    """
    _check(clips_nthwc)
    return np.stack([grid(clips_nthwc[:, t], columns=columns) for t in range(clips_nthwc.shape[1])])


def moving_clips(frames: int, height: int, width: int, most: int = 16) -> int:
    """How many clips of this shape a moving grid should have, so that its file stays small."""
    scale = usual_scale(height, width)
    return max(1, min(most, _MOVING_PIXELS // (frames * height * width * scale**2)))


def animate(
    frames_thwc: np.ndarray, fmt: AnimationFormat = "gif", rate: int = FRAMES_PER_SECOND
) -> bytes:
    """One clip as a file that plays for ever.

    Grey comes back from a GIF as it was; colours are brought to 256 for each frame. WebP is without
    loss.

    Args:
        frames_thwc: uint8 `[T, H, W, 1 or 3]`.
        fmt: The container.
        rate: Frames per second, from 1 to 50.

    Raises:
        ValueError: The shape or type is not as above.
    """
    _check(frames_thwc[None])
    first, *others = [image_of(frame_hwc) for frame_hwc in frames_thwc]
    out = io.BytesIO()
    shared = {"save_all": True, "append_images": others, "duration": _duration(rate), "loop": 0}
    if fmt == "gif":
        first.save(out, "GIF", **shared)
    else:
        first.save(out, "WEBP", lossless=True, method=2, **shared)
    return out.getvalue()


def frames_of(data: bytes, rate: int = FRAMES_PER_SECOND) -> np.ndarray:
    """The frames of a file that `animate` made, `[T, H, W, 1]` where no pixel has a colour, else 3.

    Frames that do not differ are stored as one that is shown for longer, and are told by that; but
    WebP makes a still picture of a clip in which nothing moves.

    Raises:
        OSError: It is no picture.
    """
    frames = []
    with Image.open(io.BytesIO(data)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            shown = image.info.get("duration", 0) or _duration(rate)
            frames += [np.asarray(image.convert("RGB"))] * max(1, round(shown / _duration(rate)))
    frames_thwc = np.stack(frames)
    is_grey = (frames_thwc == frames_thwc[..., :1]).all()
    return frames_thwc[..., :1] if is_grey else frames_thwc


def _duration(rate: int) -> int:
    """Milliseconds of a frame, in whole hundredths of a second."""
    return 10 * max(2, math.floor(100 / rate + 0.5))


def _check(clips_nthwc: np.ndarray) -> None:
    shape = clips_nthwc.shape
    if clips_nthwc.dtype != np.uint8 or len(shape) != 5 or shape[4] not in (1, 3) or 0 in shape:
        raise ValueError(
            f"expected uint8 clips [n, T, H, W, 1 or 3], got {clips_nthwc.dtype} {list(shape)}"
        )
