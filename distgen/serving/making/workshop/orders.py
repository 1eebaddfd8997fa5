"""What is ordered, and how drawn pictures become files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np

from distgen.metrics.animation import FRAMES_PER_SECOND
from distgen.serving.making.encode import Format, UInt8Images, encode

if TYPE_CHECKING:
    from distgen.serving.making.remaking import Wanted  # and with it torch


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


def write(encodings: Sequence[Encoding], images_hwc: Iterable[UInt8Images]) -> list[bytes]:
    """Each image as its encoding wants it; neighbours of one kind are encoded together."""
    files: list[bytes] = []
    for encoding, group in groupby(
        zip(encodings, images_hwc, strict=True), key=lambda pair: pair[0]
    ):
        images = [image for _, image in group]
        if encoding.format == "raw":
            files += [image.tobytes() for image in images]
            continue
        batch_nhwc = np.stack(images)
        files += encode(batch_nhwc, encoding.format, encoding.quality, encoding.rate)
    return files
