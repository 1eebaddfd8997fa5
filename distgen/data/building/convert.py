"""One picture of any kind into the one kind that a shard set holds.

The rules, in the order in which they apply:

* Formats: PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, told by content and not by name. An animation gives
  its first frame.
* More than 178 million pixels, an empty or a truncated file, other content: rejected.
* EXIF orientation is applied, so that the picture is stored the way a viewer shows it.
* 16 bits per channel become 8 by x * 255 / 65535, rounded (16-bit colour: Pillow's high byte);
  1 bit becomes 0 or 255; floating point has no defined white and is rejected.
* An embedded ICC profile is converted to sRGB (relative colorimetric) where it is not sRGB already,
  which is where it would change a colour by more than 2 of 255; one that cannot be read, or that
  is made for other channels than the picture's, is ignored.
* Transparency is laid over white. Palettes, CMYK, YCbCr, Lab and HSV become RGB. RGB becomes
  grey by ITU-R 601 luma.
* Size: Lanczos to reduce, bicubic to enlarge.
    `crop`: scaled until the shorter side fits, then cut around the centre;
    `pad`: scaled until the longer side fits, never enlarged, then centred on black;
    `stretch`: scaled to the size, whatever that does to the proportions.
* A JPEG that is already of the right size, mode, orientation and colours is kept byte for byte.
* What came as JPEG is stored as JPEG (quality 95, 4:4:4 unless asked otherwise), all else as PNG.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from distgen.core.spec import Mode
from distgen.data.building import colour
from distgen.data.formats import png
from distgen.data.formats.decode import JPEG_MAGIC, decode_into

Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[str, ...] = get_args(Fit)
Encoding = Literal["auto", "png", "jpg"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
)
MAX_PIXELS = 178_956_970  # what Pillow takes for a decompression bomb at 3 bytes per pixel
TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels"
GREY_MODES = frozenset(("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N"))

_EXIF_ORIENTATION = 0x0112
_WIDE_MODES = frozenset(("I", "I;16", "I;16L", "I;16B", "I;16N"))


class RejectedError(ValueError):
    """A picture that no rule can bring into the set; the message says why."""


@dataclass(frozen=True)
class Target:
    """What every picture of a set has to become."""

    height: int
    width: int
    mode: Mode
    fit: Fit = "crop"
    encoding: Encoding = "auto"
    quality: int = 95
    frames: int | None = None
    """Frames of a clip; None: these are pictures."""


@dataclass(frozen=True)
class Encoded:
    """A picture or clip ready for a shard: the extension of its member, and its bytes."""

    field: str
    data: bytes


@dataclass(frozen=True)
class Header:
    """What a picture's header says, after its orientation is applied."""

    height: int
    width: int
    grey: bool


def convert(picture: bytes | np.ndarray, target: Target) -> Encoded:
    """Bring an encoded picture, or uint8 pixels [H, W], [H, W, 1] or [H, W, 3], to the target.

    Raises:
        RejectedError: The picture cannot be read, or no rule covers it.
    """
    if isinstance(picture, np.ndarray):
        return _convert_pixels(picture, target)
    if target.encoding != "png" and _fits_already(picture, target):
        return Encoded("jpg", picture)
    try:
        with open_picture(picture) as image:
            lossy = image.format == "JPEG"
            image.load()
            resized = resize(to_mode(upright(image), target.mode), target)
    except RejectedError:
        raise
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        raise RejectedError(f"it cannot be decoded: {error or type(error).__name__}") from error
    return encode(np.asarray(resized), target, lossy=lossy)


def read_header(picture: bytes | Path) -> Header:
    """Size and colour of an encoded picture, without decoding its pixels.

    Raises:
        RejectedError: The header cannot be read.
    """
    try:
        with open_picture(picture) as image:
            height, width = image.height, image.width
            if _orientation(image) >= 5:  # 5 to 8 turn the picture by a quarter
                height, width = width, height
            return Header(height, width, grey=image.mode in GREY_MODES)
    except RejectedError:
        raise
    except Exception as error:  # see convert
        raise RejectedError(f"its header cannot be read: {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """A decoded picture the way a viewer shows it: turned as its EXIF data say, in sRGB."""
    return colour.to_srgb(ImageOps.exif_transpose(image))


def to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """The picture with 8 bits per channel in this mode, by the rules above.

    Raises:
        RejectedError: Its values have no defined range.
    """
    if image.mode in _WIDE_MODES:
        image = _narrow(image)
    elif image.mode == "F":
        raise RejectedError("floating-point pictures have no defined white")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        image = Image.alpha_composite(white, layered).convert("RGB")
    if image.mode == mode:
        return image
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image.convert(mode)


def resize(image: Image.Image, target: Target) -> Image.Image:
    """The picture at the target's size, by the target's `fit`."""
    width, height = target.width, target.height
    if image.size == (width, height):
        return image
    if target.fit == "stretch":
        return _scale(image, width, height)
    ratios = (width / image.width, height / image.height)
    ratio = max(ratios) if target.fit == "crop" else min(*ratios, 1.0)
    scaled = _scale(image, max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    # A box that reaches outside the picture is filled with black: the same call crops and pads.
    return scaled.crop((left, top, left + width, top + height))


def encode(pixels: np.ndarray, target: Target, *, lossy: bool) -> Encoded:
    """Encode uint8 pixels [H, W], [H, W, 1] or [H, W, 3] as the target asks."""
    pixels_hwc = np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))
    height, width, channels = pixels_hwc.shape
    if target.encoding == "jpg" or (target.encoding == "auto" and lossy):
        data = simplejpeg.encode_jpeg(
            pixels_hwc,
            quality=target.quality,
            colorspace="GRAY" if channels == 1 else "RGB",
            colorsubsampling="Gray" if channels == 1 else "444",
        )
        return Encoded("jpg", data)
    if height * width <= png.PLAIN_PIXELS:
        return Encoded("png", png.encode_plain(pixels_hwc))
    file = io.BytesIO()
    Image.fromarray(pixels_hwc[:, :, 0] if channels == 1 else pixels_hwc).save(file, "PNG")
    return Encoded("png", file.getvalue())


def _convert_pixels(pixels: np.ndarray, target: Target) -> Encoded:
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(flat))
    return encode(np.asarray(resize(to_mode(image, target.mode), target)), target, lossy=False)


def _fits_already(picture: bytes, target: Target) -> bool:
    """Whether these bytes are a sound JPEG of the target's size, mode, orientation, in sRGB."""
    if picture[:2] != JPEG_MAGIC:
        return False
    try:
        with open_picture(picture) as image:
            if (image.width, image.height) != (target.width, target.height):
                return False
            if image.mode != target.mode or _orientation(image) != 1:
                return False
            if not colour.is_srgb(image):
                return False
        channels = 1 if target.mode == "L" else 3
        decode_into(picture, np.empty((target.height, target.width, channels), np.uint8))
    except Exception:  # whatever it is, the general way will say what is wrong
        return False
    return True


def open_picture(picture: bytes | Path) -> Image.Image:
    """A picture of which the header is read, in one of the known formats.

    Raises:
        RejectedError: It is none, or is absurdly large.
    """
    if not picture:
        raise RejectedError("the file is empty")
    file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise RejectedError("this is not a picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise RejectedError(TOO_LARGE) from error
    if image.width * image.height > MAX_PIXELS:
        raise RejectedError(TOO_LARGE)
    return image


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _narrow(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise RejectedError("32-bit pictures have no defined white")
    return Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))


def _scale(image: Image.Image, width: int, height: int) -> Image.Image:
    if (width, height) == image.size:
        return image
    smaller = width < image.width or height < image.height
    filtering = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
    return image.resize((width, height), filtering)
