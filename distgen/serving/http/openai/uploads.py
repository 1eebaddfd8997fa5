"""Pictures that clients send, as the pixels that a model makes.

PNG, WebP and JPEG, told by content; of an animation its first frame. Cut around the centre to the
model's proportions, scaled to its size, brought to its mode; transparency is laid over white. What
EXIF says of orientation is not followed: a mask made for the picture as it is stored has to fit.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from distgen.core.spec import ImageSpec
from distgen.data.building.convert import RejectedError, Target, resize, to_mode
from distgen.serving.http.errors import RequestError

MAX_PIXELS = 4096 * 4096
_FORMATS = ("PNG", "WEBP", "JPEG")
_SHARE_OF_HOLE = 64  # of 255: a pixel that is a quarter hole is made anew


@dataclass(frozen=True)
class Upload:
    """A picture in a model's size and mode."""

    pixels: bytes
    """`[H, W, C]`."""
    hole: bytes = b""
    """`[H, W]`: 1 where it is to be made anew; of edits."""


def read_picture(data: bytes, spec: ImageSpec) -> Upload:
    """A picture to make others of.

    Raises:
        RequestError: It is none, or is absurdly large.
    """
    return Upload(_pixels(_opened(data, "image"), spec))


def read_edit(data: bytes, mask: bytes | None, spec: ImageSpec) -> Upload:
    """A picture, and where it is to be made anew: where its mask, or else itself, has alpha 0.

    Raises:
        RequestError: One of them is no picture, is absurdly large, or says of no pixel that it is
            to be made anew; or they differ in size.
    """
    image = _opened(data, "image")
    over, param = (image, "image") if mask is None else (_opened(mask, "mask"), "mask")
    if over.size != image.size:
        raise RequestError(
            f"The mask has {over.width}x{over.height} pixels and the image "
            f"{image.width}x{image.height}. Send a mask of the image's size.",
            param="mask",
        )
    if not over.has_transparency_data:
        raise RequestError(
            f"The {param} has no alpha channel. Send a mask that is transparent where the picture "
            "is to be made anew, as PNG or WebP.",
            param="mask",
        )
    alpha = np.asarray(over.convert("RGBA").getchannel("A"))
    hole = resize(Image.fromarray((alpha == 0).astype(np.uint8) * 255), _target(spec))
    hole_hw = np.asarray(hole) >= _SHARE_OF_HOLE
    if not hole_hw.any():
        raise RequestError(
            f"The {param} is nowhere transparent in what the model sees of the picture. "
            "Give it alpha 0 where the picture is to be made anew.",
            param="mask",
        )
    return Upload(_pixels(image, spec), hole_hw.astype(np.uint8).tobytes())


def _opened(data: bytes, param: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(param)
        image.load()
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(param) from error
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        raise _no_picture(param) from error
    return image


def _pixels(image: Image.Image, spec: ImageSpec) -> bytes:
    try:
        fitting = resize(to_mode(image, spec.mode), _target(spec))
    except RejectedError as error:
        raise _no_picture("image") from error
    return np.asarray(fitting).tobytes()


def _target(spec: ImageSpec) -> Target:
    return Target(spec.height, spec.width, spec.mode, fit="crop")


def _too_large(param: str) -> RequestError:
    return RequestError(
        f"The {param} is larger than the at most {MAX_PIXELS} pixels that it may have. "
        "Send a smaller one.",
        param=param,
        code="invalid_image",
    )


def _no_picture(param: str) -> RequestError:
    return RequestError(
        f"The {param} is not a whole picture. Send a PNG, WebP or JPEG file itself; nothing is "
        "fetched from elsewhere.",
        param=param,
        code="invalid_image",
    )
