"""Frames of videos, animations and arrays, one after the other, without holding more than one.

Which kind a file is says its content; its name says only whether it is meant to hold frames. Frames
count as they come: how long each is shown does not matter.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distgen.data.building.convert import RejectedError
from distgen.data.building.frames import animations, arrays, videos
from distgen.data.building.frames.kind import Frame, Kind, Mark, Survey
from distgen.data.formats import npy

__all__ = ["SUFFIXES", "Frame", "Mark", "Survey", "frames_from", "rejecting", "survey"]

SUFFIXES = frozenset((".npy", *animations.SUFFIXES, *videos.SUFFIXES))
"""How the names of files that hold frames end."""

_MAGIC_BYTES = 16
_ANIMATIONS = (b"GIF8", b"\x89PNG")


def survey(path: Path, every: int) -> Survey:
    """Look at all of a file: how many frames it holds, and whether each can be decoded.

    Args:
        path: The file.
        every: Frames from one mark to the next.

    Raises:
        RejectedError: It cannot be read, is damaged, or holds no frames.
    """
    with rejecting("it cannot be decoded"):
        return _kind_of(path).survey(path, every)


def frames_from(path: Path, mark: Mark) -> Iterator[Frame]:
    """The frames of a file from a mark on; a frame is decoded to its end only when it is called.

    Raises:
        RejectedError: The file cannot be read or is damaged.
    """
    with rejecting("it cannot be decoded"):
        yield from _kind_of(path).frames_from(path, mark)


@contextmanager
def rejecting(what: str) -> Iterator[None]:
    """Whatever a decoder makes of a damaged file becomes a reason to reject the file.

    Raises:
        RejectedError: The block raised.
    """
    try:
        yield
    except RejectedError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise RejectedError(f"the file cannot be read: {error.strerror}") from error
        raise RejectedError(f"{what}: {error or type(error).__name__}") from error


def _kind_of(path: Path) -> Kind:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for whoever writes into it
        raise RejectedError("it is not a regular file")
    with path.open("rb") as file:
        start = file.read(_MAGIC_BYTES)
    if not start:
        raise RejectedError("the file is empty")
    if start.startswith(npy.MAGIC):
        return arrays
    if start.startswith(_ANIMATIONS) or (start[:4], start[8:12]) == (b"RIFF", b"WEBP"):
        return animations
    if videos.is_installed():
        return videos
    raise RejectedError("it holds no frames in a known format")
