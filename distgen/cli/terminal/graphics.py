"""A picture as the bytes by which terminals are told to show it; nothing here knows a terminal.

- kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol/
- iTerm2: https://iterm2.com/documentation-images.html
- sixel: VT330/VT340 Programmer Reference Manual, chapter 14
- half blocks: U+2580 in two colours (ECMA-48 SGR, with ISO 8613-6 colours)
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

KITTY_CHUNK = 4096
"""Characters of base64 that one escape sequence of kitty's may carry."""
_ESC = b"\x1b"
_ST = b"\x1b\\"
_BEL = b"\x07"
_BAND = 6
_SIXEL_ZERO = 63
_LEAST_RUN = 4  # `!3x` is as long as `xxx`
_COLOURS = 256
_UPPER_HALF = "\u2580"


def kitty(png: bytes, cells: int | None = None) -> bytes:
    """A PNG by kitty's protocol, at the cursor.

    Args:
        png: The file.
        cells: Columns of the terminal that it takes; None: as many as its pixels need.
    """
    data = base64.standard_b64encode(png)
    chunks = [data[at : at + KITTY_CHUNK] for at in range(0, len(data), KITTY_CHUNK)]
    # Quiet (q=2): an answer would be read by whoever reads the keyboard next.
    keys = b"a=T,f=100,q=2," + (b"c=%d," % cells if cells else b"")
    return b"".join(
        _ESC
        + b"_G"
        + (keys if number == 0 else b"")
        + b"m=%d;" % (number < len(chunks) - 1)
        + chunk
        + _ST
        for number, chunk in enumerate(chunks)
    )


def iterm(png: bytes, name: str, cells: int | None = None) -> bytes:
    """A PNG by iTerm2's protocol, at the cursor.

    Args:
        png: The file.
        name: What it is called.
        cells: Columns of the terminal that it takes; None: as many as its pixels need.
    """
    named = base64.standard_b64encode(name.encode()).decode()
    width = str(cells) if cells else "auto"
    keys = f"name={named};size={len(png)};width={width};preserveAspectRatio=1;inline=1"
    head = f"]1337;File={keys}:".encode()
    return _ESC + head + base64.standard_b64encode(png) + _BEL


def sixel(pixels_hwc: np.ndarray) -> bytes:
    """A picture as sixels: at most 256 colours, runs of equal columns told once.

    Args:
        pixels_hwc: uint8 `[H, W, 1 or 3]`.
    """
    image = _rgb(pixels_hwc).quantize(_COLOURS, dither=Image.Dither.NONE)
    indices = np.asarray(image)
    height, width = indices.shape
    palette = np.array(image.getpalette()).reshape(-1, 3)
    used = np.unique(indices).tolist()
    colours = [
        "#{};2;{};{};{}".format(number, *np.rint(palette[number] / 255 * 100).astype(int))
        for number in used
    ]
    bands = [_band(indices[top : top + _BAND]) for top in range(0, height, _BAND)]
    # Pixels are square, and the ones that no colour sets stay as they are.
    body = f'0;1;0q"1;1;{width};{height}' + "".join(colours) + "-".join(bands)
    return _ESC + b"P" + body.encode() + _ST


def half_blocks(pixels_hwc: np.ndarray, *, true_colour: bool = True) -> str:
    """A picture in characters, each an upper half in one colour on a lower one in another.

    Args:
        pixels_hwc: uint8 `[H, W, 1 or 3]`; a pixel is half a cell.
        true_colour: Whether the terminal has 16 million colours, or 256.
    """
    pixels = np.asarray(_rgb(pixels_hwc))
    lines = []
    for top in range(0, len(pixels), 2):
        upper = pixels[top]
        lower = pixels[top + 1] if top + 1 < len(pixels) else None
        lines.append("".join(_cells(upper, lower, true_colour)) + "\x1b[0m\n")
    return "".join(lines)


def png_of(pixels_hwc: np.ndarray) -> bytes:
    """A picture as a PNG file."""
    out = io.BytesIO()
    _rgb(pixels_hwc).save(out, "PNG")
    return out.getvalue()


def pixels_of(png: bytes) -> np.ndarray:
    """The pixels of a PNG file, uint8 `[H, W, 3]`."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def fitted(pixels_hwc: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture that is no larger than this, its sides in proportion; never enlarged."""
    image = _rgb(pixels_hwc)
    factor = min(1.0, width / image.width, height / image.height)
    if factor < 1.0:
        size = max(1, int(image.width * factor)), max(1, int(image.height * factor))
        image = image.resize(size, Image.Resampling.BOX)
    return np.asarray(image)


def _band(indices_hw: np.ndarray) -> str:
    """Up to six rows: for each colour in them a line of sixels, drawn one over the other."""
    weights = (1 << np.arange(len(indices_hw)))[:, None]
    lines = []
    for number in np.unique(indices_hw).tolist():
        sixels = ((indices_hw == number) * weights).sum(0)
        lines.append(f"#{number}" + "".join(_runs(sixels)))
    return "$".join(lines)


def _runs(sixels: np.ndarray) -> Iterator[str]:
    """Sixels as characters, those that repeat with a count before them."""
    ends = np.flatnonzero(np.diff(sixels)) + 1
    for part in np.split(sixels, ends):
        character = chr(_SIXEL_ZERO + int(part[0]))
        yield f"!{len(part)}{character}" if len(part) >= _LEAST_RUN else character * len(part)


def _cells(upper: np.ndarray, lower: np.ndarray | None, true_colour: bool) -> Iterator[str]:
    before = None
    for column in range(len(upper)):
        above = _colour(upper[column], true_colour)
        below = "49" if lower is None else f"48;{_colour(lower[column], true_colour)}"
        style = f"\x1b[38;{above};{below}m"
        yield _UPPER_HALF if style == before else style + _UPPER_HALF
        before = style


def _colour(pixel: np.ndarray, true_colour: bool) -> str:
    red, green, blue = (int(value) for value in pixel)
    if true_colour:
        return f"2;{red};{green};{blue}"
    if red == green == blue:  # 24 greys between black and white
        grey = round((red - 8) / 10)
        return f"5;{16 if grey < 0 else 231 if grey > 23 else 232 + grey}"
    levels = [0 if value < 48 else 1 if value < 115 else (value - 35) // 40
              for value in (red, green, blue)]  # fmt: skip
    return f"5;{16 + 36 * levels[0] + 6 * levels[1] + levels[2]}"


def _rgb(pixels_hwc: np.ndarray) -> Image.Image:
    if pixels_hwc.shape[-1] == 1:
        pixels_hwc = np.repeat(pixels_hwc, 3, axis=-1)
    return Image.fromarray(np.ascontiguousarray(pixels_hwc))
