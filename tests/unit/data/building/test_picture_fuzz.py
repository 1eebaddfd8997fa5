"""Pictures with bytes changed, cut out, put in and exchanged: used, or refused in words."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distgen.core.spec import Mode
from distgen.data.building.convert import RejectedError, Target, convert
from distgen.data.formats.decode import decode_into
from distgen.data.formats.png import encode_plain

SIDE = 12
GUARD = 64
# What a picture may take at most: MAX_PIXELS of four bytes, as they are and as RGB.
MEMORY_BYTES = 178_956_970 * 8


@functools.cache
def originals() -> tuple[bytes, ...]:
    """A small picture in every format and in the modes that each has ways of its own for."""
    random = np.random.default_rng(5)
    noise = random.integers(0, 256, (SIDE, SIDE, 4), np.uint8)
    noise[:4] = 200
    whole = Image.fromarray(noise, "RGBA")
    made = [encode_plain(np.ascontiguousarray(noise[:, :, :channels])) for channels in (1, 3)]
    options: tuple[tuple[str, str, dict[str, object]], ...] = (
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("JPEG", "RGB", {"exif": exif(6)}),
        ("JPEG", "L", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {}),
        ("GIF", "P", {"save_all": True, "append_images": [whole.convert("P").rotate(90)]}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {"compression": "raw"}),
        ("PPM", "RGB", {}),
    )
    for file_format, mode, more in options:
        file = io.BytesIO()
        whole.convert(mode).save(file, file_format, **more)
        made.append(file.getvalue())
    return tuple(made)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@st.composite
def mutated(draw: Callable[..., object]) -> bytes:
    """One of the originals with a few changes."""
    data = bytearray(draw(st.sampled_from(originals())))  # type: ignore[arg-type]
    for _ in range(draw(st.integers(1, 4))):  # type: ignore[call-overload]
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "number", "cut", "insert", "repeat", "other"])):
            case "flip" if data:
                data[place] ^= draw(st.integers(1, 255))  # type: ignore[operator]
            case "number":
                number = draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                order = draw(st.sampled_from([">I", "<I"]))
                data[place : place + 4] = struct.pack(order, number)  # type: ignore[arg-type]
            case "cut":
                del data[place : place + draw(st.integers(1, len(data) + 1))]  # type: ignore[operator]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=40))  # type: ignore[call-overload]
            case "repeat":
                data[place:place] = data[place : place + draw(st.integers(1, 200))]  # type: ignore[operator]
            case "other":
                other = draw(st.sampled_from(originals()))
                data[place:] = other[min(place, len(other)) :]  # type: ignore[index,arg-type]
    return bytes(data)


def check(data: bytes, mode: Mode) -> None:
    channels = 1 if mode == "L" else 3
    # What is in a shard, whatever it is: its own pixels are written, or an error is raised.
    memory = np.full(2 * GUARD + SIDE * SIDE * channels, 77, np.uint8)
    inside = memory[GUARD:-GUARD].reshape(SIDE, SIDE, channels)
    refused = "in words"
    try:
        decode_into(data, inside)
    except ValueError as error:
        refused = str(error)
    assert refused
    assert (memory[:GUARD] == 77).all()
    assert (memory[-GUARD:] == 77).all()
    # What is in a folder, whatever it is: a sound picture of the set, or a reason.
    try:
        made = convert(data, Target(SIDE, SIDE, mode))
        decode_into(made.data, inside)
    except RejectedError as error:
        refused = str(error)
    assert refused


# Of what is wrong with metadata, Pillow only warns.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@given(mutated(), st.sampled_from(["L", "RGB"]))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_a_mutated_picture_is_used_or_refused(data: bytes, mode: Mode) -> None:
    check(data, mode)


@pytest.mark.slow
def test_ten_thousand_mutated_pictures_in_bounded_memory() -> None:
    process = psutil.Process()
    before = process.memory_info().rss

    @given(mutated(), st.sampled_from(["L", "RGB"]))
    @settings(max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
    def run(data: bytes, mode: Mode) -> None:
        check(data, mode)
        assert process.memory_info().rss - before < MEMORY_BYTES

    run()
