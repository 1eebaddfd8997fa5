"""The shape of the pictures or clips that a shard set holds and a model makes."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from distgen.core.config import Config

Mode = Literal["L", "RGB"]
MODES: tuple[str, ...] = get_args(Mode)

MAX_SIDE = 16_384
"""Pixels: a longer side is a mistake, or an attack on the memory of whoever makes such pictures."""
MAX_FRAMES = 65_536
"""Frames of a clip, at most."""
MAX_CLIP_BYTES = 1 << 30
"""Bytes of a decoded clip, at most: it is held as a whole wherever it is used."""


class ImageSpec(Config):
    """What data gives and models make: pictures, or clips, of one size, mode and list of classes.

    Raises:
        ValueError: A clip would be larger than `MAX_CLIP_BYTES`.
    """

    height: int = Field(ge=1, le=MAX_SIDE)
    """Rows, in pixels."""
    width: int = Field(ge=1, le=MAX_SIDE)
    """Columns, in pixels."""
    mode: Mode
    """`L` (one channel) or `RGB` (three)."""
    classes: tuple[str, ...] = ()
    """Class names in label order; empty where pictures have no labels."""
    frames: int | None = Field(default=None, ge=1, le=MAX_FRAMES)
    """Frames of every clip; None: these are pictures."""

    @model_validator(mode="after")
    def _fits_memory(self) -> ImageSpec:
        if self.frames is not None and math.prod(self.shape) > MAX_CLIP_BYTES:
            raise ValueError(
                f"a clip of {self.frames} frames of {self.width}x{self.height} {self.mode} has "
                f"more than {MAX_CLIP_BYTES >> 20} MiB"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_frames(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is written of pictures, and digests of it, are from before there were clips.
        values: dict[str, Any] = serialise(self)
        if self.frames is None:
            values.pop("frames", None)
        return values

    @property
    def channels(self) -> int:
        """Colour channels: 1 or 3."""
        return 1 if self.mode == "L" else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels; of clips, frames before them."""
        picture = self.height, self.width, self.channels
        return picture if self.frames is None else (self.frames, *picture)

    @property
    def samples_text(self) -> str:
        """What samples are, for people: `pictures of 64x48 RGB`."""
        picture = f"{self.width}x{self.height} {self.mode}"
        if self.frames is None:
            return f"pictures of {picture}"
        return f"clips of {self.frames} {'frame' if self.frames == 1 else 'frames'} of {picture}"

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 where there are none."""
        return len(self.classes)
