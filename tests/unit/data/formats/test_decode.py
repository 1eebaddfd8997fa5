"""What is no picture of the set's size is refused as such, whatever its bytes claim."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from distgen.data.formats.decode import decode_into


def png_header(width: int, height: int) -> bytes:
    """The beginning of an RGB PNG of this size, and nothing more."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def huge_webp() -> bytes:
    """A WebP of 8x8 whose header says 16,384x16,384, more than Pillow is willing to open."""
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(out, "WEBP", lossless=True)
    data = bytearray(out.getvalue())
    place = data.index(b"VP8L") + 9  # after the chunk's name, its size and the signature
    data[place : place + 4] = b"\xff\xff\xff\x0f"  # twice 14 bits: both sides, less one
    return bytes(data)


@pytest.mark.parametrize("data", [huge_webp(), png_header(20_000, 20_000), b"", b"RIFF"])
def test_bytes_that_claim_too_much_or_nothing_are_no_picture_of_the_set(data):
    with pytest.raises(ValueError, match=r"\w"):
        decode_into(data, np.zeros((8, 8, 3), np.uint8))
