"""Frames of animated GIF, WebP and PNG files, by Pillow: each as a viewer shows it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from distgen.data.building.convert import open_picture, read_header, upright
from distgen.data.building.frames.kind import Frame, Mark, Survey, marks_every

SUFFIXES = (".gif", ".webp", ".png", ".apng")


def survey(path: Path, every: int) -> Survey:
    """How many frames there are, once all were decoded: nothing else shows a file cut short."""
    with open_picture(path) as image:
        numbers = _numbers(image)
        for number in numbers:
            image.seek(number)
            image.load()
    return Survey(len(numbers), read_header(path), marks_every(len(numbers), every))


def frames_from(path: Path, mark: Mark) -> Iterator[Frame]:
    """The frames of the file from a mark on; those before it are decoded too."""
    with open_picture(path) as image:
        for number in _numbers(image)[mark.frame :]:
            image.seek(number)
            yield partial(_picture, image)


def _numbers(image: Image.Image) -> range:
    """The frames that are shown: a PNG may have one for viewers that know no animations."""
    return range(int(getattr(image, "default_image", False)), getattr(image, "n_frames", 1))


def _picture(image: Image.Image) -> Image.Image:
    image.load()
    return upright(image)
