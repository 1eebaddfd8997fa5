from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distgen.serving.making.encode import encode
from distgen.serving.making.workshop.orders import Encoding, write


def _pixels(data: bytes) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@settings(max_examples=40)
@given(
    count=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
)
def test_png_gives_back_every_pixel(count, height, width, channels, seed):
    shape = (count, height, width, channels)
    images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    for image, data in zip(images, encode(images, "png"), strict=True):
        np.testing.assert_array_equal(_pixels(data), image)


@pytest.mark.parametrize(("fmt", "name"), [("jpeg", "JPEG"), ("webp", "WEBP")])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_are_what_they_say_and_close(fmt, name, channels):
    ramp = np.linspace(0, 255, 32 * 32).reshape(1, 32, 32, 1).astype(np.uint8)
    images = np.repeat(ramp, channels, axis=3)
    (data,) = encode(images, fmt, quality=95)
    opened = Image.open(io.BytesIO(data))
    assert (opened.format, opened.size) == (name, (32, 32))
    assert np.abs(_pixels(data)[:, :, :1].astype(int) - ramp[0]).mean() < 3
    (coarse,) = encode(np.random.default_rng(0).integers(0, 256, images.shape, np.uint8), fmt, 5)
    (fine,) = encode(np.random.default_rng(0).integers(0, 256, images.shape, np.uint8), fmt, 100)
    assert len(coarse) < len(fine)


def test_orders_of_mixed_formats_keep_their_places():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    formats = ["png", "jpeg", "jpeg", "webp", "png", "png"]
    files = write([Encoding(fmt) for fmt in formats], images)
    assert [Image.open(io.BytesIO(f)).format for f in files] == [f.upper() for f in formats]
    for index in (0, 4, 5):
        np.testing.assert_array_equal(_pixels(files[index]), images[index])
