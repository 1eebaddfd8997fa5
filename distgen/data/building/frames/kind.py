"""What is known of a file that holds frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from distgen.data.building.convert import Header

Frame = Callable[[], Image.Image]
"""Makes the picture, upright and at its own size, until the frame after it is asked for."""


class Mark(NamedTuple):
    """A frame to begin at: its number from 0 and, in a video, how it is found and recognised."""

    frame: int
    pts: int | None = None
    """When it is shown, in units of the stream."""
    crc32: int = 0
    """Checksum of its pixels."""


class Survey(NamedTuple):
    """What a file holds, by a look at all of it."""

    frames: int
    header: Header
    """Size and colour of the first frame."""
    marks: tuple[Mark, ...]
    """Places to begin at, in order; the first is frame 0."""


class Kind(Protocol):
    """A kind of files. Damaged files make both functions raise anything."""

    def survey(self, path: Path, every: int) -> Survey:
        """What a file holds, with a mark at every so many frames."""
        ...

    def frames_from(self, path: Path, mark: Mark) -> Iterator[Frame]:
        """The frames of a file from a mark on."""
        ...


def marks_every(frames: int, every: int) -> tuple[Mark, ...]:
    """Marks for a file of which any frame can be found by its number."""
    return tuple(Mark(frame) for frame in range(0, frames, every))
