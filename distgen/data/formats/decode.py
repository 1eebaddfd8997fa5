"""Encoded pictures and clips into preallocated uint8 arrays."""

from __future__ import annotations

import io
import sys
import threading

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from distgen.data.formats import npy, png

JPEG_MAGIC = b"\xff\xd8"


def _references_when_unused() -> int:
    """What `sys.getrefcount` says of a thing that only a list and a loop variable hold."""
    return next(sys.getrefcount(thing) for thing in [object()])


_UNUSED_REFERENCES = _references_when_unused()


def decode_into(data: bytes | memoryview, out_hwc: np.ndarray) -> None:
    """Write the pixels of an encoded picture into `out_hwc`, C-contiguous uint8 [H, W, 1 or 3].

    JPEG goes through simplejpeg, plain small PNGs through `png.decode_plain`, the rest through
    Pillow. The first and the third release the GIL while they decode. A clip, for which `out_hwc`
    is [T, H, W, 1 or 3], is copied out of its `npy`.

    Raises:
        ValueError: The bytes are not a picture, or clip, of that size.
    """
    if out_hwc.ndim == 4:
        npy.decode_into(data, out_hwc)
        return
    magic = bytes(data[:2])
    if magic == JPEG_MAGIC:
        _decode_jpeg(data, out_hwc)
    elif magic != png.SIGNATURE[:2] or not png.decode_plain(data, out_hwc):
        _decode_with_pillow(data, out_hwc)


def _decode_jpeg(data: bytes | memoryview, out_hwc: np.ndarray) -> None:
    colorspace = "GRAY" if out_hwc.shape[2] == 1 else "RGB"
    decoded = simplejpeg.decode_jpeg(data, colorspace=colorspace, buffer=out_hwc)
    # A smaller picture would fill only a part of the buffer, without an error.
    if decoded.shape != out_hwc.shape:
        raise _wrong_size(decoded.shape[:2], out_hwc)


def _decode_with_pillow(data: bytes | memoryview, out_hwc: np.ndarray) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            if image.size != (out_hwc.shape[1], out_hwc.shape[0]):
                raise _wrong_size((image.height, image.width), out_hwc)
            pixels = np.asarray(image.convert("L" if out_hwc.shape[2] == 1 else "RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    out_hwc[...] = pixels.reshape(out_hwc.shape)


def _wrong_size(found: tuple[int, ...], out_hwc: np.ndarray) -> ValueError:
    return ValueError(
        f"the picture is {found[1]}x{found[0]} pixels, "
        f"not {out_hwc.shape[1]}x{out_hwc.shape[0]} as the manifest says"
    )


class BufferPool:
    """Batches' arrays, used again once nobody holds them.

    A fresh array of a few megabytes costs one page fault for every 4 KiB that decoding touches,
    which is a quarter of the time that simplejpeg needs to fill it. An array, any view of it, and a
    tensor made from it all hold a reference to it, so a count of references says whether it may be
    written again; a batch that its consumer keeps is never touched.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._buffers: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An uninitialised uint8 array of this shape that nobody else holds."""
        with self._lock:
            for buffer in self._buffers:
                if sys.getrefcount(buffer) == _UNUSED_REFERENCES and buffer.shape == shape:
                    return buffer
            fresh = np.empty(shape, np.uint8)
            self._buffers = [*self._buffers, fresh][-self._capacity :]
            return fresh
