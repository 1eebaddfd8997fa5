"""From the videos of a source to the items of a build, one for each clip."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from distgen.core.errors import UsageError
from distgen.core.spec import MAX_CLIP_BYTES, MAX_FRAMES, ImageSpec
from distgen.data.building.clips import Clip, Cut, Video, look_at
from distgen.data.building.convert import Encoding, RejectedError, Target
from distgen.data.building.frames import videos
from distgen.data.building.sources import Item
from distgen.data.building.sources.item import hashed
from distgen.data.building.sources.runs import LONGEST_CHUNK
from distgen.data.building.work import Rejected, Work

Parts = dict[str | None, Sequence[Item]]
"""The items of each split to build."""

_CHUNK_BYTES = 16 << 20  # samples that a worker gives back at once


def cut_videos(parts: Parts, cut: Cut, work: Work) -> tuple[Parts, int]:
    """Look at all of every video, and make an item of each clip.

    All clips of a video are in the split that the video is in. Runs of a few clips stay together
    and are spread over the set, so that a shard holds parts of many videos.

    Returns:
        The clips of each split, and how many frames at the ends of videos fill no clip.

    Raises:
        UsageError: There are videos, and what decodes them is not installed.
    """
    _require_decoder(item for items in parts.values() for item in items)
    # One at a time: a video may be an hour long.
    single = replace(work, chunk=1)
    result: Parts = {}
    left_out = 0
    for split, items in parts.items():
        runs: list[tuple[int, str, list[Item]]] = []
        for item, video in single.in_order("survey", partial(_look_at, cut=cut), items):
            if isinstance(video, Rejected):
                refused = replace(item, refused=video.reason)
                runs.append((hashed("order", item.key), item.key, [refused]))
                continue
            left_out += video.left_out
            runs += _runs(item, video)
        runs.sort(key=lambda run: run[:2])
        result[split] = [item for _, _, clips in runs for item in clips]
    return result, left_out


def cut_of(frames: int | None, stride: int, encoding: Encoding) -> Cut | None:
    """How videos are cut; None where no clips are wanted.

    Raises:
        UsageError: An option is impossible, or would have no effect.
    """
    if frames is None and stride != 1:
        raise UsageError(
            f"--stride {stride} is for clips, and none are wanted.",
            remedy="--frames, such as --frames 16",
        )
    if frames is None:
        return None
    for name, value in (("frames", frames), ("stride", stride)):
        if not 1 <= value <= MAX_FRAMES:
            raise UsageError(f"--{name} is {value}; it has to be from 1 to {MAX_FRAMES}.")
    if encoding != "auto":
        raise UsageError(
            f"Clips are stored as arrays, not as {encoding}.", remedy="leave out --encoding"
        )
    return Cut(frames, stride)


def spec_of(target: Target, classes: tuple[str, ...]) -> ImageSpec:
    """What a set holds whose samples all become the target.

    Raises:
        UsageError: A clip would be too large.
    """
    size = {"height": target.height, "width": target.width, "mode": target.mode}
    picture = ImageSpec.model_validate({**size, "classes": classes})
    if math.prod(picture.shape) * (target.frames or 1) > MAX_CLIP_BYTES and target.frames:
        raise UsageError(
            f"A clip of {target.frames} frames of {target.width}x{target.height} {target.mode} "
            f"has more than {MAX_CLIP_BYTES >> 20} MiB.",
            remedy="a smaller --size, or fewer --frames",
        )
    return ImageSpec.model_validate({**size, "classes": classes, "frames": target.frames})


def chunk_of(image: ImageSpec) -> int:
    """Samples that a worker gives back at once: fewer where they are large clips."""
    if image.frames is None:
        return LONGEST_CHUNK
    return max(1, min(LONGEST_CHUNK, _CHUNK_BYTES // math.prod(image.shape)))


def _require_decoder(items: Iterable[Item]) -> None:
    if videos.is_installed():
        return
    for item in items:
        if not item.refused and item.path.suffix.lower() in videos.SUFFIXES:
            raise UsageError(
                "Videos are decoded by PyAV, which is not installed.",
                where=item.origin,
                remedy="pip install 'distgen[video]'",
            )


def _look_at(item: Item, cut: Cut) -> Video:
    if item.refused:
        raise RejectedError(item.refused)
    return look_at(item.path, cut)


def _runs(item: Item, video: Video) -> list[tuple[int, str, list[Item]]]:
    """The clips of a video in runs, each with what it is sorted by."""
    clips = [Clip(video, number) for number in range(video.clips)]
    items = [
        Item(f"{item.key}-c{clip.number:05d}", item.origin + clip.range_text, item.label, clip)
        for clip in clips
    ]
    length = video.cut.run_clips
    runs = [items[begin : begin + length] for begin in range(0, len(items), length)]
    return [(hashed("order", run[0].key), run[0].key, run) for run in runs]
