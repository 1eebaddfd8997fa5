"""What is known of a build before it begins: its splits, and the size and mode of the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from distgen.core.errors import DataError, UsageError
from distgen.core.spec import Mode
from distgen.core.storage import Location, locate
from distgen.data.building.convert import FORMATS, SUFFIXES, Header, Target
from distgen.data.building.frames import SUFFIXES as VIDEO_SUFFIXES
from distgen.data.building.sources import BUILTIN, Item, Source, chosen, split_of
from distgen.data.building.sources.folder import UNPLACED
from distgen.data.building.sources.shards import ShardSetSource
from distgen.data.building.work import Progress, Rejected, Work

_REPORT_EVERY = 4096


def check_apart(
    source: str, opened: Source, location: Location, splits: Iterable[str | None]
) -> None:
    """Refuse to write among the files of a source, which a build might take for its own.

    A shard set may be replaced by one that is made of it: it stays until the new one is whole.

    Raises:
        UsageError: The destination is the source's folder, or lies in it.
    """
    if source in BUILTIN or isinstance(opened, ShardSetSource):
        return
    place = locate(source)
    is_file = place.is_file()
    folder = place.parent if is_file else place
    for written in (location, *(location / name for name in splits if name)):
        inside = not is_file and f"{written.path}/".startswith(f"{folder.path}/")
        if written.url == folder.url or inside:
            raise UsageError(
                f"The set would be written into the folder of the source, {str(written)!r}.",
                remedy="another folder for DST",
            )


def parts_of(
    source: Source, split: float | None, report: Progress
) -> dict[str | None, Sequence[Item]]:
    """The items of each split to build.

    Raises:
        UsageError: The source has splits of its own, or one would be empty.
    """
    if source.splits:
        if split is not None:
            raise UsageError(
                f"{source.name!r} comes with splits of its own: {', '.join(source.splits)}.",
                remedy="leave out --split",
            )
        return {name: source.items(name) for name in source.splits}
    items = source.items(None)
    share = source.default_split if split is None else split
    if not share:
        return {None: items}
    is_test = np.empty(len(items), bool)
    for place, item in enumerate(items):
        is_test[place] = split_of(item, share) == "test"
        if place % _REPORT_EVERY == _REPORT_EVERY - 1:
            report("split", place + 1, len(items))
    if len(items) >= _REPORT_EVERY:
        report("split", len(items), len(items))
    parts: dict[str | None, Sequence[Item]] = {
        "train": chosen(items, np.flatnonzero(~is_test)),
        "test": chosen(items, np.flatnonzero(is_test)),
    }
    empty = [str(name) for name, chosen in parts.items() if not chosen]
    if empty:
        raise UsageError(
            f"The split {empty[0]!r} would be empty.",
            cause=f"{len(items)} pictures, of which a share of {share} becomes 'test'",
            remedy="another --split, or --split 0 for a set without splits",
        )
    return parts


def size_and_mode(
    source: Source,
    parts: dict[str | None, Sequence[Item]],
    shape: tuple[int, int] | None,
    mode: Mode | None,
    frames: int | None,
    work: Work,
) -> tuple[int, int, Mode]:
    """Height, width and mode: as asked for, else as the source prefers, else as its pictures are.

    Raises:
        UsageError: The pictures have several sizes and none was asked for.
        DataError: Not one header could be read.
    """
    shape, mode = shape or source.default_size, mode or source.default_mode
    if shape is None or mode is None:
        headers: Counter[Header] = Counter()
        rejected: list[Rejected] = []
        total, before = sum(len(items) for items in parts.values()), 0
        for items in parts.values():
            surveyed = replace(work, report=partial(_add, work.report, before, total))
            for _, header in surveyed.in_order("survey", Item.header, items):
                if isinstance(header, Rejected):
                    rejected.append(header)
                else:
                    headers[header] += 1
            before += len(items)
        if not headers:
            raise nothing_readable(rejected, frames)
        shape = shape or _common_size(headers)
        mode = mode or ("L" if all(header.grey for header in headers) else "RGB")
    return (*shape, mode)


def _add(report: Progress, before: int, all_items: int, stage: str, done: int, _: int) -> None:
    """Tell of a part as one of a whole."""
    report(stage, before + done, all_items)


def _common_size(headers: Counter[Header]) -> tuple[int, int]:
    sizes = sorted({(header.height, header.width) for header in headers})
    if len(sizes) > 1:
        (low_h, low_w), (high_h, high_w) = sizes[0], sizes[-1]
        raise UsageError(
            f"The pictures have {len(sizes)} different sizes, "
            f"from {low_w}x{low_h} to {high_w}x{high_h}; a shard set has one.",
            remedy="choose one, for example --size 64 (and --fit crop, pad or stretch)",
        )
    return sizes[0]


def fields_of(items: Sequence[Item], target: Target, *, labelled: bool) -> tuple[str, ...]:
    """Extensions that members may have; with `auto` that depends on what the pictures are."""
    pictures: tuple[str, ...] = (target.encoding,)
    if target.frames is not None:
        pictures = ("npy",)
    elif target.encoding == "auto":
        arrays = all(isinstance(item.content, np.ndarray) for item in items)
        pictures = ("png",) if arrays else ("jpg", "png")
    return (*(("cls",) if labelled else ()), *pictures)


def nothing_readable(rejected: Sequence[Rejected], frames: int | None) -> DataError:
    """The error that says that there is nothing to build."""
    reason, count = Counter(each.reason for each in rejected).most_common(1)[0]
    pictures = f"pictures are {', '.join(FORMATS)}, and their files end in "
    kind, known, suffixes = "picture", pictures, SUFFIXES
    if frames is not None:
        kind, known, suffixes = "video", "videos are files that end in ", VIDEO_SUFFIXES
    remedy = f"{known}{', '.join(sorted(suffixes))}"
    if reason == UNPLACED:
        remedy = f"class folders for the {kind}s of every split, or for none"
    return DataError(
        f"None of {len(rejected)} files could be read as a {kind}.",
        where=rejected[0].path,
        cause=f"{reason} ({count} times)",
        remedy=remedy,
    )
