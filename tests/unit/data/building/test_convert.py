"""Pictures of every kind become the one kind of the set, by the documented rules."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distgen.data.building.convert import Encoded, RejectedError, Target, convert, read_header
from distgen.data.formats.decode import decode_into
from distgen.data.formats.png import decode_plain, encode_plain

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def pixels(result: Encoded, target: Target) -> np.ndarray:
    channels = 1 if target.mode == "L" else 3
    out_hwc = np.zeros((target.height, target.width, channels), np.uint8)
    decode_into(result.data, out_hwc)
    return out_hwc


def converted(picture: bytes | np.ndarray, target: Target) -> np.ndarray:
    return pixels(convert(picture, target), target)


def gradient(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 // height, columns * 255 // width, 255 - rows * 255 // height]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    upright = Image.new("RGB", (16, 8), BLACK)
    upright.paste(WHITE, (0, 0, 8, 4))  # the upper left quarter
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # shown by turning it back, clockwise
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright.transpose(turned) if turned is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = encoded(stored, file_format, exif=exif)
    target = Target(8, 16, "RGB", encoding="png")
    shown = converted(picture, target)
    assert shown[:4, :8].min() > 200
    assert shown[4:].max() < 60
    assert shown[:, 8:].max() < 60
    header = read_header(picture)
    assert (header.height, header.width) == (8, 16)


def test_transparency_is_laid_over_white() -> None:
    target = Target(2, 2, "RGB")
    clear_red = Image.new("RGBA", (2, 2), (*RED, 0))
    assert (converted(encoded(clear_red), target) == 255).all()
    half_black = Image.new("LA", (2, 2), (0, 128))
    assert abs(int(converted(encoded(half_black), Target(2, 2, "L"))[0, 0, 0]) - 127) <= 1


def test_palettes_become_colours_and_keep_their_transparency() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLACK])
    palette.putdata([0, 1])
    target = Target(1, 2, "RGB")
    assert converted(encoded(palette), target).tolist() == [[list(RED), list(BLACK)]]
    transparent = converted(encoded(palette, transparency=1), target)
    assert transparent.tolist() == [[list(RED), list(WHITE)]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 255, 257, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 128, 255]
    for file_format in ("PNG", "TIFF"):
        picture = encoded(Image.fromarray(values), file_format)
        assert converted(picture, Target(1, 6, "L"))[0, :, 0].tolist() == expected
        assert converted(picture, Target(1, 6, "RGB"))[0, :, 2].tolist() == expected


def test_one_bit_cmyk_and_grey_follow_their_rules() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    assert converted(encoded(bits), Target(1, 2, "L"))[0, :, 0].tolist() == [255, 0]
    cyan = Image.new("CMYK", (2, 2), (255, 0, 0, 0))
    assert converted(encoded(cyan, "TIFF"), Target(2, 2, "RGB"))[0, 0].tolist() == [0, 255, 255]
    luma = converted(encoded(Image.new("RGB", (2, 2), RED)), Target(2, 2, "L"))
    assert luma[0, 0, 0] == 76  # 0.299 * 255
    grey = Image.new("L", (2, 2), 9)
    assert converted(encoded(grey), Target(2, 2, "RGB"))[0, 0].tolist() == [9, 9, 9]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, WHITE)]
    picture = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert converted(picture, Target(4, 4, "RGB"))[0, 0].tolist() == list(RED)


def test_fit_crops_the_centre_pads_with_black_or_stretches() -> None:
    image = Image.new("RGB", (30, 10), WHITE)
    image.paste(RED, (10, 0, 20, 10))  # a red square between white ones
    picture = encoded(image)
    cropped = converted(picture, Target(10, 10, "RGB", "crop"))
    assert (cropped == RED).all()
    padded = converted(picture, Target(10, 10, "RGB", "pad"))
    assert (padded[:3] == 0).all()
    assert (padded[-3:] == 0).all()
    assert padded[5].max() > 200
    stretched = converted(picture, Target(10, 10, "RGB", "stretch"))
    assert (stretched[:, 5] == RED).all()
    assert (stretched[:, 0] == WHITE).all()


def test_pad_never_enlarges() -> None:
    random = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    padded = converted(random, Target(32, 32, "L", "pad"))
    assert (padded[2:30, 2:30, 0] == random).all()
    assert padded.sum() == random.sum()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_that_fits_is_kept_byte_for_byte(mode: Any) -> None:
    picture = encoded(gradient(24, 32).convert(mode), "JPEG", quality=70)
    assert convert(picture, Target(24, 32, mode)) == Encoded("jpg", picture)


def test_a_jpeg_of_another_size_mode_or_orientation_is_written_anew() -> None:
    picture = encoded(gradient(24, 32), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = encoded(gradient(24, 32), "JPEG", exif=exif)
    for data, target in (
        (picture, Target(12, 16, "RGB")),
        (picture, Target(24, 32, "L")),
        (turned, Target(24, 32, "RGB")),
    ):
        result = convert(data, target)
        assert result.field == "jpg"
        assert result.data != data
        pixels(result, target)
    assert convert(picture, Target(24, 32, "RGB", encoding="png")).field == "png"


def test_what_was_lossless_stays_lossless() -> None:
    random = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    for picture in (random, encoded(Image.fromarray(random))):
        result = convert(picture, Target(80, 90, "RGB"))
        assert result.field == "png"
        assert (pixels(result, Target(80, 90, "RGB")) == random).all()
    assert convert(random, Target(80, 90, "RGB", encoding="jpg")).field == "jpg"


def test_what_is_no_picture_is_rejected_with_the_reason() -> None:
    target = Target(8, 8, "RGB")
    jpeg, png = encoded(gradient(8, 8), "JPEG"), encoded(gradient(8, 8))
    floats = encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")
    for picture, reason in (
        (b"", "empty"),
        (b"hello, I am text", "not a picture"),
        (b"%PDF-1.7 " + bytes(100), "not a picture"),
        (jpeg[: len(jpeg) // 2], "decoded"),
        (png[: len(png) // 2], "decoded"),
        (floats, "floating-point"),
    ):
        with pytest.raises(RejectedError, match=reason):
            convert(picture, target)


def test_a_picture_of_absurd_size_is_rejected_before_it_is_decoded() -> None:
    bomb = bytearray(encoded(Image.new("L", (1, 1))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # the size in the header; the CRC is now wrong
    with pytest.raises(RejectedError):
        convert(bytes(bomb), Target(8, 8, "L"))
    huge = encoded(Image.new("1", (20_000, 10_000)))
    with pytest.raises(RejectedError, match="more than 178,956,970 pixels"):
        convert(huge, Target(8, 8, "L"))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]))
def test_arbitrary_bytes_are_rejected_and_nothing_else(tail: bytes, magic: bytes) -> None:
    with pytest.raises(RejectedError):
        convert(magic + tail, Target(8, 8, "RGB"))


@given(st.data())
def test_flipping_bytes_of_a_picture_gives_a_picture_or_a_rejection(data: st.DataObject) -> None:
    file_format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]))
    picture = bytearray(encoded(gradient(8, 8), file_format))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(picture) - 1))
        picture[place] ^= data.draw(st.integers(1, 255))
    target = Target(8, 8, "RGB")
    try:
        result = convert(bytes(picture), target)
    except RejectedError:
        return
    pixels(result, target)


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]), st.integers(0, 99))
def test_plain_png_round_trips_and_pillow_agrees(
    height: int, width: int, channels: int, seed: int
) -> None:
    random = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    data = encode_plain(random)
    out_hwc = np.empty_like(random)
    assert decode_plain(data, out_hwc)
    assert (out_hwc == random).all()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (np.asarray(image).reshape(random.shape) == random).all()


def test_other_pngs_fall_back_to_pillow(tmp_path: Path) -> None:
    image = gradient(12, 12)
    for data in (encoded(image), encoded(image.convert("P")), encoded(image.convert("RGBA"))):
        out_hwc = np.empty((12, 12, 3), np.uint8)
        assert not decode_plain(data, out_hwc)
        decode_into(data, out_hwc)


def test_a_picture_of_another_size_than_the_manifest_says_is_an_error() -> None:
    for file_format in ("PNG", "JPEG", "WEBP"):
        for side in (8, 20):
            with pytest.raises(ValueError, match=r"not 12x12|buffer"):
                decode_into(
                    encoded(gradient(side, side), file_format), np.empty((12, 12, 3), np.uint8)
                )
