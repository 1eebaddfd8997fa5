"""Embedded colour profiles (ICC): pictures as they would look on an sRGB screen."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
_TOLERANCE = 2
"""Of 255: what rounding in a profile's tables amounts to."""


def to_srgb(image: Image.Image) -> Image.Image:
    """The picture with its colours in sRGB; itself where it has no profile that says otherwise.

    Transparency stays. Grey stays grey; palettes and CMYK become RGB where a profile is applied.
    """
    if not image.info.get("icc_profile"):
        return image
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    opaque = image.convert(image.mode.removesuffix("A")) if alpha else image
    change = _transform(image.info["icc_profile"], opaque.mode)
    if change is None:
        return image
    changed = change.apply(opaque)
    if opaque.mode == "L":
        changed = changed.convert("L")
    if alpha:
        changed.putalpha(alpha)
    return changed


def is_srgb(image: Image.Image) -> bool:
    """Whether `to_srgb` would leave a picture without palette or transparency as it is."""
    profile = image.info.get("icc_profile")
    return not profile or _transform(profile, image.mode) is None


@functools.lru_cache(maxsize=16)  # the pictures of one camera or tool share a profile
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings pixels of this mode to sRGB; None where nothing has to or can be done."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES.get(mode):
            return None
        change = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode == "CMYK":
        return change
    probe = _probe(mode)
    before = np.asarray(probe.convert("RGB"), np.int16)
    return change if np.abs(np.asarray(change.apply(probe)) - before).max() > _TOLERANCE else None


def _probe(mode: str) -> Image.Image:
    """All greys, or 9 levels of each channel of colour."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    return Image.fromarray(grid.reshape(27, 27, 3))
