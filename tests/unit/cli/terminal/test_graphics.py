"""The bytes that terminals get, read back by small readers written after the specifications."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from distgen.cli.terminal import graphics
from distgen.cli.terminal.detect import Screen
from distgen.cli.terminal.show import encode

SCREEN = Screen(columns=40, rows=20, cell_width=10, cell_height=20)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def read_kitty(data: bytes) -> tuple[dict[str, str], bytes, list[int]]:
    """Keys of the first command, the payload of all, and the sizes of its chunks."""
    commands = re.findall(rb"\x1b_G([^;\x1b]*);([A-Za-z0-9+/=]*)\x1b\\", data)
    assert b"".join(b"\x1b_G" + k + b";" + p + b"\x1b\\" for k, p in commands) == data
    keys = [dict(pair.split("=") for pair in k.decode().split(",")) for k, _ in commands]
    assert [k["m"] for k in keys] == ["1"] * (len(keys) - 1) + ["0"]
    assert all(set(k) == {"m"} for k in keys[1:]), "keys stand in the first command only"
    return (
        keys[0],
        base64.b64decode(b"".join(p for _, p in commands)),
        [len(p) for _, p in commands],
    )


@pytest.mark.parametrize("size", [1, 3071, 3072, 3073, 6144, 10_000])
def test_kitty_gets_the_file_in_chunks_that_it_takes(size):
    png = bytes(np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8))
    keys, payload, chunks = read_kitty(graphics.kitty(png, 12))
    assert payload == png
    assert keys == {"a": "T", "f": "100", "q": "2", "c": "12", "m": keys["m"]}
    assert all(chunk == graphics.KITTY_CHUNK for chunk in chunks[:-1])
    assert 0 < chunks[-1] <= graphics.KITTY_CHUNK
    assert "c" not in read_kitty(graphics.kitty(png))[0]


def test_iterm_gets_the_file_its_size_and_its_name():
    png = graphics.png_of(noise(4, 5))
    for cells, width in ((7, "7"), (None, "auto")):
        data = graphics.iterm(png, "grid;a=b.png", cells)
        found = re.fullmatch(rb"\x1b\]1337;File=([^:]*):([A-Za-z0-9+/=]*)\x07", data)
        assert found
        keys = dict(pair.split("=", 1) for pair in found[1].decode().split(";"))
        assert base64.b64decode(keys.pop("name")).decode() == "grid;a=b.png"
        assert keys == {
            "size": str(len(png)), "width": width, "preserveAspectRatio": "1", "inline": "1",
        }  # fmt: skip
        assert base64.b64decode(found[2]) == png


def read_sixel(data: bytes) -> np.ndarray:
    """The picture of a device control string, as a VT340 would draw it; -1: no colour."""
    found = re.fullmatch(rb'\x1bP([\d;]*)q"1;1;(\d+);(\d+)(.*)\x1b\\', data, re.DOTALL)
    assert found
    width, height = int(found[2]), int(found[3])
    drawn = np.full((-(-height // 6) * 6, width, 3), -1)
    colours: dict[int, tuple[int, int, int]] = {}
    x = top = colour = 0
    pattern = rb"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])"
    body = found[4]
    assert b"".join(match[0] for match in re.finditer(pattern, body)) == body
    for match in re.finditer(pattern, body):
        if match[1]:
            colour = int(match[1])
            if match[2]:
                percent = [int(match[number]) for number in (2, 3, 4)]
                assert all(0 <= value <= 100 for value in percent)
                colours[colour] = tuple(round(value * 2.55) for value in percent)
        elif match[8]:
            x, top = 0, top + (6 if match[8] == b"-" else 0)
        else:
            for _ in range(int(match[5] or 1)):
                bits = ord(match[6] or match[7]) - 63
                for row in range(6):
                    if bits >> row & 1:
                        assert (drawn[top + row, x] == -1).all(), "a pixel is drawn once"
                        drawn[top + row, x] = colours[colour]
                x += 1  # noqa: SIM113 - the column that terminals count, too
    assert (drawn[height:] == -1).all(), "nothing below the picture"
    return drawn[:height]


@settings(max_examples=25)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 14), st.integers(1, 14), st.sampled_from([1, 3])),
        elements=st.sampled_from([0, 51, 102, 153, 204, 255]),
    )
)
def test_sixels_draw_the_picture(pixels):
    drawn = read_sixel(graphics.sixel(pixels))
    assert drawn.shape == (*pixels.shape[:2], 3)
    # Colours are told in hundredths.
    assert np.abs(drawn - np.broadcast_to(pixels, drawn.shape).astype(int)).max() <= 2


def test_sixels_of_many_colours_are_near_and_of_one_are_short():
    pixels = noise(30, 30)
    drawn = read_sixel(graphics.sixel(pixels))
    assert (drawn >= 0).all()
    assert np.abs(drawn - pixels.astype(int)).mean() < 30
    assert len(graphics.sixel(np.zeros((60, 500, 1), np.uint8))) < 200


def read_blocks(text: str) -> list[list[tuple[tuple[int, ...], tuple[int, ...] | None]]]:
    """Of each cell the upper and the lower colour."""
    lines = []
    for line in text.splitlines():
        assert line.endswith("\x1b[0m"), "colours end with the line"
        cells, style = [], None
        for match in re.finditer(r"\x1b\[38;([\d;]+?);(?:48;([\d;]+)|49)m|(\u2580)", line):
            if match[3]:
                cells.append(style)
            else:
                upper = tuple(map(int, match[1].split(";")))
                style = upper, tuple(map(int, match[2].split(";"))) if match[2] else None
        lines.append(cells)
    return lines


def test_half_blocks_are_two_pixels_each():
    pixels = noise(5, 3)
    cells = read_blocks(graphics.half_blocks(pixels))
    assert [len(line) for line in cells] == [3, 3, 3]
    for row, line in enumerate(cells):
        for column, (upper, lower) in enumerate(line):
            assert upper == (2, *pixels[2 * row, column])
            below = None if row == 2 else (2, *pixels[2 * row + 1, column])
            assert lower == below


@pytest.mark.parametrize(
    ("pixel", "number"),
    [
        ((0, 0, 0), 16),
        ((255, 255, 255), 231),
        ((8, 8, 8), 232),
        ((238, 238, 238), 255),
        ((128, 128, 128), 244),
        ((255, 0, 0), 196),
        ((0, 95, 135), 24),
    ],
)
def test_colours_of_poorer_terminals_are_the_nearest(pixel, number):
    text = graphics.half_blocks(np.array([[pixel]], np.uint8), true_colour=False)
    assert read_blocks(text) == [[((5, number), None)]]


def test_pictures_are_made_to_fit_and_never_enlarged():
    assert graphics.fitted(noise(100, 50), 20, 20).shape == (20, 10, 3)
    assert graphics.fitted(noise(1, 1000), 20, 20).shape == (1, 20, 3)
    np.testing.assert_array_equal(graphics.fitted(noise(9, 8), 20, 20), noise(9, 8))


@pytest.mark.parametrize("how", ["kitty", "iterm", "sixel", "blocks"])
def test_no_picture_is_larger_than_the_screen(how):
    data = encode(graphics.png_of(noise(900, 600)), "x.png", how, SCREEN, true_colour=True)
    assert data.endswith(b"\n")
    if how == "blocks":
        lines = read_blocks(data.decode())
        assert len(lines) <= SCREEN.rows - 4
        assert all(len(line) <= SCREEN.columns for line in lines)
        return
    if how == "sixel":
        height, width, _ = read_sixel(data[:-1]).shape
    else:
        png = (
            read_kitty(data[:-1])[1]
            if how == "kitty"
            else base64.b64decode(data[:-2].partition(b":")[2])
        )
        width, height = Image.open(io.BytesIO(png)).size
    assert (width, height) == (213, 320), "16 of 20 rows, in proportion"


def test_a_terminal_without_pictures_gets_nothing():
    assert encode(graphics.png_of(noise(2, 2)), "x", "none", SCREEN, true_colour=True) == b""
