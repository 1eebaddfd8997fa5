"""The shape of the pictures that a shard set holds and a model makes."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from distgen.core.config import Config

Mode = Literal["L", "RGB"]
MODES: tuple[str, ...] = get_args(Mode)

MAX_SIDE = 16_384
"""Pixels: a longer side is a mistake, or an attack on the memory of whoever makes such pictures."""


class ImageSpec(Config):
    """What data gives and models make: pictures of one size, mode and list of classes."""

    height: int = Field(ge=1, le=MAX_SIDE)
    """Rows, in pixels."""
    width: int = Field(ge=1, le=MAX_SIDE)
    """Columns, in pixels."""
    mode: Mode
    """`L` (one channel) or `RGB` (three)."""
    classes: tuple[str, ...] = ()
    """Class names in label order; empty where pictures have no labels."""

    @property
    def channels(self) -> int:
        """Colour channels: 1 or 3."""
        return 1 if self.mode == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 where there are none."""
        return len(self.classes)
