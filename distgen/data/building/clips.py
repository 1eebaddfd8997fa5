"""Clips: a fixed number of frames that follow one another in a video, stored as one array.

A video is cut into clips from its beginning, without overlap; frames at its end that do not fill a
clip are left out. Every frame goes by the rules for pictures; see `data.convert`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from distgen.data.building.convert import Encoded, Header, RejectedError, Target, resize, to_mode
from distgen.data.building.frames import Frame, Mark, Survey, frames_from, rejecting, survey
from distgen.data.formats import npy

RUN_FRAMES = 512
"""Frames of a video, at least, whose clips stay together in the set. Where a run begins, a video
has to be decoded from the key frame before it, which may be some hundred frames away."""


@runtime_checkable
class ClipContent(Protocol):
    """A clip, wherever its frames come from."""

    @property
    def header(self) -> Header:
        """Size and colour of the frames that it is made of."""
        ...

    @property
    def version(self) -> str:
        """All that its bytes depend on, beside the target."""
        ...

    def encoded(self, target: Target) -> Encoded:
        """Its frames at the target's size and mode, as a uint8 array [T, H, W, C] in `npy`.

        Raises:
            RejectedError: There are no such frames.
        """
        ...


@dataclass(frozen=True)
class Cut:
    """How videos become clips.

    Args:
        frames: Frames of a clip.
        stride: Every how many-th frame of the video is one of a clip's.
    """

    frames: int
    stride: int = 1

    @property
    def run_clips(self) -> int:
        """Clips of a run."""
        return -(-RUN_FRAMES // self.run_step)

    @property
    def run_step(self) -> int:
        """Frames of the video from the beginning of a clip to that of the next."""
        return self.frames * self.stride

    def taken(self, frames: int) -> int:
        """How many frames of a video would be some clip's, were its end no matter."""
        return -(-frames // self.stride)


@dataclass(frozen=True)
class Video:
    """A file that holds frames, of which at least one clip can be cut."""

    path: Path
    cut: Cut
    survey: Survey = field(repr=False)
    version: str
    """Size and time of change, by which another file under this name is told apart."""

    @property
    def clips(self) -> int:
        """Clips that it gives."""
        return self.cut.taken(self.survey.frames) // self.cut.frames

    @property
    def left_out(self) -> int:
        """Frames at its end that would be a clip's, were there more of them."""
        return self.cut.taken(self.survey.frames) % self.cut.frames


@dataclass(frozen=True)
class Clip:
    """One clip of a video, by its number from 0."""

    video: Video
    number: int

    @property
    def first(self) -> int:
        """Its first frame, counted in the video."""
        return self.number * self.video.cut.run_step

    @property
    def header(self) -> Header:
        """Size and colour of the video's frames."""
        return self.video.survey.header

    @property
    def version(self) -> str:
        """Which frames of which version of the video these are."""
        return f"{self.video.version} {self.range_text}"

    @property
    def range_text(self) -> str:
        """Which frames these are, as Python writes it: `[32:48]`, or with a stride `[64:96:2]`."""
        cut = self.video.cut
        step = f":{cut.stride}" if cut.stride > 1 else ""
        return f"[{self.first}:{self.first + cut.run_step}{step}]"

    def encoded(self, target: Target) -> Encoded:
        """Its frames at the target's size and mode, as a uint8 array [T, H, W, C] in `npy`.

        Raises:
            RejectedError: The video cannot be decoded, or changed since it was looked at.
        """
        channels = 1 if target.mode == "L" else 3
        shape = (self.video.cut.frames, target.height, target.width, channels)
        clip_thwc = np.empty(shape, np.uint8)
        for frame_hwc, frame in zip(clip_thwc, _here.frames(self), strict=True):
            with rejecting("a frame cannot be decoded"):
                picture = resize(to_mode(frame(), target.mode), target)
                frame_hwc[...] = np.asarray(picture).reshape(frame_hwc.shape)
        return Encoded("npy", npy.encode(clip_thwc))


def look_at(path: Path, cut: Cut) -> Video:
    """A video, once all of it was looked at.

    Raises:
        RejectedError: It cannot be read, is damaged, or too short for a clip.
    """
    with rejecting("it cannot be read"):
        status = path.stat()
    found = survey(path, cut.run_clips * cut.run_step)
    video = Video(path, cut, found, f"{status.st_size} {status.st_mtime_ns}")
    if not video.clips:
        needed = (cut.frames - 1) * cut.stride + 1
        have = f"{found.frames} {'frame' if found.frames == 1 else 'frames'}"
        raise RejectedError(f"it has {have}; a clip takes {needed}")
    return video


class _Decoding(threading.local):
    """The video that a thread has open: its clips come one after the other, decoded once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._frames: Iterator[Frame] = iter(())
        self._next = 0

    def frames(self, clip: Clip) -> Iterator[Frame]:
        """The frames of a clip; each has to be used before the next is taken."""
        cut = clip.video.cut
        if self._path != clip.video.path or self._next != clip.first:
            mark = clip.video.survey.marks[clip.number // cut.run_clips]
            self._begin(clip.video.path, mark)
        last = clip.first + (cut.frames - 1) * cut.stride
        wanted = range(clip.first, last + 1, cut.stride)
        try:
            while self._next <= last:
                frame = next(self._frames, None)
                if frame is None:
                    raise RejectedError(f"the file changed: it ends before frame {self._next}")
                self._next += 1
                if self._next - 1 in wanted:
                    yield frame
            # The frames that a stride skips belong to this clip's part of the video.
            while self._next < clip.first + cut.run_step and next(self._frames, None) is not None:
                self._next += 1
        except BaseException:
            self._close()
            raise
        if clip.number + 1 == clip.video.clips:
            self._close()

    def _begin(self, path: Path, mark: Mark) -> None:
        self._frames = frames_from(path, mark)
        self._path, self._next = path, mark.frame

    def _close(self) -> None:
        self._path, self._frames = None, iter(())


_here = _Decoding()
