"""What is ordered, and how drawn pictures become files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from distgen.metrics.animation import FRAMES_PER_SECOND
from distgen.serving.making.encode import Format, encode
from distgen.serving.making.remaking import Wanted
from distgen.serving.making.sampler import UInt8Images


@dataclass(frozen=True)
class Encoding:
    """How a picture's bytes are written."""

    format: Format | Literal["raw"] = "png"
    """`raw`: no file but its pixels, row by row."""
    quality: int = 95
    rate: int = FRAMES_PER_SECOND
    """Frames per second of a clip."""


RAW = Encoding("raw")


@dataclass(frozen=True)
class Order:
    """One picture and how to write it."""

    picture: Wanted
    encoding: Encoding


def write(orders: Sequence[Order], images_hwc: Sequence[UInt8Images]) -> list[bytes]:
    """Each image as its order's encoding wants it; neighbours of one kind are encoded together."""
    files: list[bytes] = []
    for encoding, group in groupby(
        zip(orders, images_hwc, strict=True), key=lambda pair: pair[0].encoding
    ):
        images = [image for _, image in group]
        if encoding.format == "raw":
            files += [image.tobytes() for image in images]
            continue
        batch_nhwc = np.stack(images)
        files += encode(batch_nhwc, encoding.format, encoding.quality, encoding.rate)
    return files
