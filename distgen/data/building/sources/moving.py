"""Clips that are made here: two pictures that move over a dark field and bounce off its walls.

After Moving MNIST (Srivastava, Mansimov and Salakhutdinov 2015, section 4.1). Where things start
and how they move comes from hashes and whole numbers, so that a clip has the same bytes on every
machine, with every version of NumPy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from distgen.core.errors import DataError, UsageError
from distgen.core.seeding import derive
from distgen.core.spec import MAX_FRAMES, Mode
from distgen.data.building.convert import Encoded, Header, Target, resize, to_mode
from distgen.data.building.sources.item import Item
from distgen.data.building.sources.runs import Lined
from distgen.data.formats import npy

SIDE = 64
"""Pixels of a frame's side."""
FRAMES = 20
"""Frames of a clip: in predictions, ten that are known and ten that follow."""
TRAIN_CLIPS, TEST_CLIPS = 10_000, 1_000
"""Clips of each split unless asked otherwise."""
MAX_CLIPS = 10_000_000
"""Clips of a split, at most."""
ITEMS = 2
"""Things that move in a clip."""

_STEP = 0.1  # of the way from wall to wall, in each frame
_ONE = 1 << 20  # a pixel: positions are whole numbers of millionths of it
_RECIPE = "moving v1"


@dataclass(frozen=True, eq=False)
class MovingClip:
    """One clip: the things that move, and the numbers that their ways follow from.

    Args:
        pictures_khw: Things that move, uint8 `[ITEMS, h, w]`.
        seed: Says where they start and how they move.
        frames: Frames of the clip.
        version: All that its bytes depend on.
    """

    pictures_khw: np.ndarray = field(repr=False)
    seed: int
    frames: int
    version: str

    header = Header(SIDE, SIDE, grey=True)

    def pixels(self) -> np.ndarray:
        """The clip, uint8 `[T, SIDE, SIDE]`; where things overlap, the brighter pixel shows."""
        clip_thw = np.zeros((self.frames, SIDE, SIDE), np.uint8)
        for number, picture_hw in enumerate(self.pictures_khw):
            height, width = picture_hw.shape
            room = (SIDE - height, SIDE - width)
            for frame_hw, (top, left) in zip(
                clip_thw, way(derive(self.seed, number), room, self.frames), strict=True
            ):
                place = frame_hw[top : top + height, left : left + width]
                np.maximum(place, picture_hw, out=place)
        return clip_thw

    def encoded(self, target: Target) -> Encoded:
        """Its frames at the target's size and mode, as a uint8 array [T, H, W, C] in `npy`."""
        clip_thw = self.pixels()
        if (target.height, target.width, target.mode) == (SIDE, SIDE, "L"):
            return Encoded("npy", npy.encode(clip_thw[..., None]))
        frames = [
            np.asarray(resize(to_mode(Image.fromarray(frame_hw), target.mode), target))
            for frame_hw in clip_thw
        ]
        shape = (self.frames, target.height, target.width, -1)
        return Encoded("npy", npy.encode(np.stack(frames).reshape(shape)))


def way(seed: int, room: tuple[int, int], frames: int) -> list[tuple[int, int]]:
    """Where a thing is in each frame: its top and left, whole pixels from 0 to the room there is.

    It starts anywhere and moves in any direction, by a tenth of the room in each frame. At a wall
    it stays for the rest of the frame and goes back the way it came, as in the paper's program.
    """
    angle = 2 * math.pi * derive(seed, "direction") / 2**63
    tops: list[int] = []
    lefts: list[int] = []
    for axis, (pixels, part) in enumerate(
        zip(room, (math.sin(angle), math.cos(angle)), strict=True)
    ):
        end = pixels * _ONE
        at = derive(seed, "start", axis) % (end + 1)
        step = round(_STEP * end * part)
        places = (tops, lefts)[axis]
        for _ in range(frames):
            at += step
            if not 0 <= at <= end:
                at, step = min(max(at, 0), end), -step
            places.append(at // _ONE)
    return list(zip(tops, lefts, strict=True))


class MovingSource:
    """Clips of two pictures of one split that bounce around, 64x64 grey, without classes.

    Clip i of a split is a function of (seed, split, i): a longer set begins with the shorter one,
    and so does a clip of more frames. What moves in a test clip comes from the test pictures.

    Args:
        name: What the manifest calls the set.
        pictures: Pictures to choose from, uint8 `[n, h, w]`, by split, at most `SIDE` a side.
        clips: How many to train on.
        test_clips: How many to hold out.
        frames: Frames of a clip.
        seed: Another seed, other clips.
    """

    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "test")
    default_split = 0.0
    default_size: tuple[int, int] | None = (SIDE, SIDE)
    default_mode: Mode | None = "L"

    def __init__(
        self,
        name: str,
        pictures: Mapping[str, np.ndarray],
        clips: int = TRAIN_CLIPS,
        test_clips: int = TEST_CLIPS,
        *,
        frames: int = FRAMES,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.frames = frames
        self._pictures = pictures
        self._clips = {"train": clips, "test": test_clips}
        self._seed = seed

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The clips of one split, each made when it is asked for."""
        split = split or "train"
        told = hashlib.sha256(self._pictures[split].tobytes()).hexdigest()
        version = f"{_RECIPE} {self._seed} {split} {self.frames} {told}"

        def make(number: int) -> Item:
            content = replace(self.clip(split, number), version=f"{version} {number}")
            return Item(f"{split}-{number:07d}", f"{self.name}/{split}[{number}]", -1, content)

        return Lined(np.arange(self._clips[split]), make, told=version)

    def clip(self, split: str, number: int) -> MovingClip:
        """Clip `number` of a split."""
        seed = derive(self._seed, "moving", split, number)
        pictures = self._pictures[split]
        chosen = [derive(seed, "picture", item) % len(pictures) for item in range(ITEMS)]
        return MovingClip(pictures[chosen], seed, self.frames, version="")


def moving_source(
    name: str,
    pictures: Mapping[str, np.ndarray],
    clips: int | None = None,
    test_clips: int | None = None,
    frames: int | None = None,
) -> MovingSource:
    """The source of such clips as a user asks for it; None: as it is by default.

    Raises:
        UsageError: A number is out of range.
    """
    for flag, value, most in (
        ("--clips", clips, MAX_CLIPS),
        ("--test-clips", test_clips, MAX_CLIPS),
        ("--frames", frames, MAX_FRAMES),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{flag} is {value}; it has to be from 1 to {most:,}.")
    return MovingSource(
        name,
        pictures,
        TRAIN_CLIPS if clips is None else clips,
        TEST_CLIPS if test_clips is None else test_clips,
        frames=FRAMES if frames is None else frames,
    )


def check_frozen(source: MovingSource, digest: str) -> None:
    """Refuse to make a test set that is not the one that others have.

    Args:
        source: As it is by default.
        digest: SHA-256 of the pixels of its first `TEST_CLIPS` test clips.

    Raises:
        DataError: The pixels are others.
    """
    found = hashlib.sha256()
    for number in range(TEST_CLIPS):
        found.update(source.clip("test", number).pixels().data)
    if found.hexdigest() != digest:
        raise DataError(
            f"The test clips of {source.name} are not those that figures are measured on.",
            cause=f"their SHA-256 is {found.hexdigest()[:12]}..., not {digest[:12]}...: this "
            "machine computes otherwise",
            remedy="build the set on another machine and copy it",
        )
