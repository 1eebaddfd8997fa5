"""Frames in `.npy` files: uint8 [T, H, W] or [T, H, W, 1, 3 or 4], read frame by frame."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from distgen.data.building.convert import MAX_PIXELS, TOO_LARGE, Header, RejectedError
from distgen.data.building.frames.kind import Frame, Mark, Survey, marks_every
from distgen.data.formats import npy


def survey(path: Path, every: int) -> Survey:
    """What the file's header says, once the file is as long as that says."""
    with path.open("rb") as file:
        header = _header(file)
    frames, height, width = header.shape[:3]
    grey = len(header.shape) == 3 or header.shape[3] == 1
    return Survey(frames, Header(height, width, grey), marks_every(frames, every))


def frames_from(path: Path, mark: Mark) -> Iterator[Frame]:
    """The frames of the file from a mark on."""
    with path.open("rb") as file:
        header = _header(file)
        for frame in range(mark.frame, header.shape[0]):
            yield partial(_picture, file.fileno(), header, frame)


def _header(file: BinaryIO) -> npy.Header:
    try:
        header = npy.read_header(file.read(npy.MAX_HEADER_BYTES))
    except ValueError as error:
        raise RejectedError(str(error)) from error
    shape = header.shape
    text = npy.shape_text(shape)
    if len(shape) == 3 and shape[2] in (3, 4):
        raise RejectedError(f"an array of {text} is a picture, not the frames of a clip")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise RejectedError(
            f"its array is {text}; a clip is frames x height x width, or that x 1, 3 or 4 channels"
        )
    if 0 in shape:
        raise RejectedError(f"its array of {text} is empty")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise RejectedError(TOO_LARGE)
    size = os.fstat(file.fileno()).st_size - header.offset
    if size != math.prod(shape):
        what = "cut short" if size < math.prod(shape) else "too long"
        raise RejectedError(f"the file is {what}: {size:,} bytes do not make an array of {text}")
    return header


def _picture(fd: int, header: npy.Header, frame: int) -> Image.Image:
    shape = header.shape[1:]
    size = math.prod(shape)
    data = os.pread(fd, size, header.offset + frame * size)
    if len(data) != size:
        raise RejectedError("the file became shorter while it was read")
    pixels = np.frombuffer(data, np.uint8).reshape(shape)
    return Image.fromarray(pixels[:, :, 0] if shape[2:] == (1,) else pixels)
