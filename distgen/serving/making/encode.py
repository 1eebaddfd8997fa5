"""Pictures to PNG, WebP and JPEG bytes, clips to GIF and WebP."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distgen.metrics.animation import FRAMES_PER_SECOND, AnimationFormat, animate

UInt8Images = NDArray[np.uint8]

Format = Literal["png", "webp", "jpeg", "gif"]
FORMATS: tuple[str, ...] = get_args(Format)
STILL_FORMATS: tuple[Format, ...] = ("png", "webp", "jpeg")
MOVING_FORMATS: tuple[Format, ...] = ("gif", "webp")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_TYPE = {1: 0, 3: 2}


def encode(
    images_nhwc: UInt8Images, fmt: Format, quality: int = 95, rate: int = FRAMES_PER_SECOND
) -> list[bytes]:
    """Each picture of `[n, H, W, C]`, or clip of `[n, T, H, W, C]`, as a file's bytes.

    Args:
        images_nhwc: Grey (C = 1) or RGB (C = 3) pixels.
        fmt: The container, one of `STILL_FORMATS` or `MOVING_FORMATS`; PNG is without loss.
        quality: 0 to 100, for pictures as WebP and JPEG.
        rate: Frames per second, for clips.
    """
    if images_nhwc.ndim == 5:
        moving: AnimationFormat = "webp" if fmt == "webp" else "gif"
        return [animate(clip_thwc, moving, rate) for clip_thwc in images_nhwc]
    if fmt == "png":
        return encode_png(images_nhwc)
    return [_encode_with_pillow(image_hwc, fmt, quality) for image_hwc in images_nhwc]


def encode_png(images_nhwc: UInt8Images) -> list[bytes]:
    """PNG files (ISO/IEC 15948) at zlib's fastest level, rows stored as differences to the left.

    Pillow's encoder takes twice as long, most of it outside of zlib.
    """
    count, height, width, channels = images_nhwc.shape
    rows = images_nhwc.reshape(count, height, width * channels)
    filtered = np.empty((count, height, 1 + width * channels), np.uint8)
    filtered[:, :, 0] = 1  # filter type "Sub"
    filtered[:, :, 1:] = rows
    filtered[:, :, 1 + channels :] -= rows[:, :, :-channels]
    colour_type = _PNG_COLOUR_TYPE[channels]
    head = _PNG_SIGNATURE + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    )
    tail = _chunk(b"IEND", b"")
    return [head + _chunk(b"IDAT", zlib.compress(image.data, 1)) + tail for image in filtered]


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _encode_with_pillow(image_hwc: UInt8Images, fmt: Format, quality: int) -> bytes:
    pixels = image_hwc[:, :, 0] if image_hwc.shape[2] == 1 else image_hwc
    image = Image.fromarray(np.ascontiguousarray(pixels))
    buffer = io.BytesIO()
    if fmt == "webp":
        image.convert("RGB").save(buffer, "WEBP", quality=quality, method=2)
    else:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
