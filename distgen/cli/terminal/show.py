"""A picture on a terminal, by whatever means it has."""

from __future__ import annotations

from typing import TextIO

from distgen.cli.terminal import graphics
from distgen.cli.terminal.detect import Graphics, Screen

_KEPT_ROWS = 4
"""Rows of the screen that a picture leaves to what is said about it."""


def encode(png: bytes, name: str, how: Graphics, screen: Screen, *, true_colour: bool) -> bytes:
    """What to send so that the picture is seen, with the end of its last line; empty for `none`.

    Args:
        png: The picture.
        name: What it is called.
        how: What the terminal understands.
        screen: Its size.
        true_colour: Whether it has more than 256 colours.
    """
    if how == "none":
        return b""
    pixels_hwc = graphics.pixels_of(png)
    height, width, _ = pixels_hwc.shape
    rows = max(1, screen.rows - _KEPT_ROWS)
    if how == "blocks":
        small = graphics.fitted(pixels_hwc, screen.columns, 2 * rows)
        return graphics.half_blocks(small, true_colour=true_colour).encode()
    most_width, most_height = screen.columns * screen.cell_width, rows * screen.cell_height
    if width > most_width or height > most_height:
        pixels_hwc = graphics.fitted(pixels_hwc, most_width, most_height)
        png = graphics.png_of(pixels_hwc)
    if how == "sixel":
        return graphics.sixel(pixels_hwc) + b"\n"
    cells = min(screen.columns, -(-pixels_hwc.shape[1] // screen.cell_width))
    sent = graphics.kitty(png, cells) if how == "kitty" else graphics.iterm(png, name, cells)
    return sent + b"\n"


def send(data: bytes, out: TextIO) -> None:
    """Write bytes to a terminal behind all that was printed before."""
    out.flush()
    out.buffer.write(data)
    out.buffer.flush()
