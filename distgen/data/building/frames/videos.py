"""Frames of videos, by PyAV (the `video` extra), which is FFmpeg.

A frame is upright as the display matrix says, and has square pixels. Colours become sRGB-like RGB
by the matrix and range that the frame names (BT.601 where it names none); grey stays grey. What a
wide-gamut or HDR video means beyond that is not mapped.
"""

from __future__ import annotations

import importlib.util
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from distgen.core.spec import MAX_SIDE
from distgen.data.building.convert import GREY_MODES, MAX_PIXELS, Header, RejectedError
from distgen.data.building.frames.containers import BrokenError, last_block, missing_bytes
from distgen.data.building.frames.kind import Frame, Mark, Survey

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from typing_extensions import Buffer

SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip

# Others, such as playlists and lists of files to join, would make FFmpeg open further files.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf"
# What the display matrix maps x and y to, by signs: a, b, c, d of x' = ax + cy and y' = bx + dy.
_TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@dataclass
class _Video:
    container: InputContainer
    stream: VideoStream
    _turn: Image.Transpose | None = None
    _is_turn_known: bool = False

    def decoded(self) -> Iterator[VideoFrame]:
        """The frames from where the container stands, in the order in which they are shown."""
        return self.container.decode(self.stream)

    def picture(self, frame: VideoFrame) -> Image.Image:
        """A frame as a viewer shows it."""
        if not self._is_turn_known:
            # Once: a frame that was asked for it lives until the garbage collector comes round.
            self._turn, self._is_turn_known = _turn(frame), True
        image = _picture(frame, float(self.stream.sample_aspect_ratio or 1))
        return image if self._turn is None else image.transpose(self._turn)


def is_installed() -> bool:
    """Whether the `video` extra is."""
    return importlib.util.find_spec("av") is not None


def survey(path: Path, every: int) -> Survey:
    """How many frames there are, once all were decoded: nothing else shows what is damaged."""
    missing = missing_bytes(path)
    if missing:
        raise RejectedError(f"the file is cut short: {missing:,} bytes are missing at its end")
    try:
        last = last_block(path)
    except BrokenError as error:
        raise _frames_lost(error.place) from error
    marks: list[Mark] = []
    header = Header(0, 0, grey=False)
    count = 0
    with _opened(path) as video:
        for frame in _checked(video, last):
            if count % every == 0:
                picture = video.picture(frame)
                marks.append(Mark(count, frame.pts, _checksum(picture)))
                if not count:
                    header = Header(picture.height, picture.width, picture.mode in GREY_MODES)
            count += 1
    return Survey(count, header, tuple(marks))


def frames_from(path: Path, mark: Mark) -> Iterator[Frame]:
    """The frames of the file from a mark on.

    They are looked for by time, from the key frame before it. Where the container leads elsewhere,
    or decoding from there gives another picture, all frames from the first one on are counted.
    """
    finders: tuple[Callable[[_Video, Mark], Iterator[VideoFrame]], ...] = (_by_time, _by_number)
    for find in finders:
        with _opened(path) as video:
            frames = find(video, mark)
            first = next(frames, None)
            if first is None:
                continue
            yield partial(video.picture, first)
            for frame in frames:
                yield partial(video.picture, frame)
            return


def _by_time(video: _Video, mark: Mark) -> Iterator[VideoFrame]:
    if mark.pts is None or not mark.frame:
        return
    video.container.seek(mark.pts, stream=video.stream)
    frames = video.decoded()
    for frame in frames:
        if frame.pts is None or frame.pts > mark.pts:
            return
        if frame.pts == mark.pts:
            if _checksum(video.picture(frame)) == mark.crc32:
                yield frame
                yield from frames
            return


def _by_number(video: _Video, mark: Mark) -> Iterator[VideoFrame]:
    for number, frame in enumerate(video.decoded()):
        if number >= mark.frame:
            yield frame


def _checked(video: _Video, last: int) -> Iterator[VideoFrame]:
    """All frames, of which none is damaged as far as the decoder can tell.

    Args:
        video: The file, at its beginning.
        last: A byte that one of its packets holds. FFmpeg takes some damage for the end.
    """
    from av.error import FFmpegError

    decoded = read = 0
    try:
        for packet in video.container.demux():
            read = max(read, (packet.pos or 0) + packet.size)
            if packet.stream is not video.stream:
                continue
            for frame in cast("list[VideoFrame]", packet.decode()):
                if frame.is_corrupt:
                    raise RejectedError(f"its frame {decoded} is damaged")
                yield frame
                decoded += 1
    except FFmpegError as error:
        reason = f"its frame {decoded} cannot be decoded: {error.strerror}"
        raise RejectedError(reason) from error
    if read < last:
        raise _frames_lost(read)


def _frames_lost(place: int) -> RejectedError:
    return RejectedError(f"the file is damaged at byte {place:,}: frames are lost there")


@contextmanager
def _opened(path: Path) -> Iterator[_Video]:
    import av
    from av.stream import Disposition

    try:
        # The name of the protocol keeps a path with a colon from being taken for another one.
        container = av.open(f"file:{path}", options={"format_whitelist": _CONTAINERS})
    except av.error.FFmpegError as error:
        raise RejectedError(
            f"it holds no frames in a known format, or is damaged ({error.strerror})"
        ) from error
    with container:
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of a recording
        ]
        if not streams:
            raise RejectedError("it has no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise RejectedError("there is no decoder for its video stream")
        # Many videos are decoded side by side; threads in each would only add memory.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield _Video(container, stream)


def _picture(frame: VideoFrame, aspect_ratio: float) -> Image.Image:
    grey = frame.format.name.startswith("gray")
    alpha = any(part.is_alpha for part in frame.format.components)
    width = round(frame.width * aspect_ratio)
    if not 1 <= width <= MAX_SIDE or width * frame.height > MAX_PIXELS:
        width = frame.width  # a ratio that nobody can mean
    pixels = frame.reformat(
        width=width,
        format="gray" if grey else "rgba" if alpha else "rgb24",
        interpolation="BICUBIC",
        threads=1,
    ).to_ndarray()
    return Image.fromarray(pixels)


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    """How the display matrix turns or mirrors a frame, where it does so by right angles."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = struct.unpack("=5i", bytes(cast("Buffer", data))[:20])
    return _TURNS.get((_sign(a), _sign(b), _sign(c), _sign(d)))


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _checksum(picture: Image.Image) -> int:
    return zlib.crc32(np.asarray(picture).tobytes())
