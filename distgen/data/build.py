"""`distgen data build`: from a source of pictures to a shard set, or one for each split."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.core.spec import MAX_SIDE, MODES, ImageSpec, Mode
from distgen.core.storage import Location, locate
from distgen.data.convert import (
    ENCODINGS,
    FITS,
    SUFFIXES,
    Encoding,
    Fit,
    Header,
    RejectedError,
    Target,
    convert,
)
from distgen.data.index import Manifest
from distgen.data.pack import SHARD_BYTES, SHARD_SAMPLES, SetWriter, make_room
from distgen.data.sources import Item, Source, open_source, split_of

REJECTED_NAME = "rejected.csv"

Progress = Callable[[str, int, int], None]
"""Called with the name of the stage, the items done, and the items of the stage."""

_CHUNK = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Rejected:
    """A picture that is not in the set, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Built:
    """What `build` made: a manifest for each split (None: no splits), and what was left out."""

    location: Location
    manifests: dict[str | None, Manifest]
    rejected: int

    @property
    def num_samples(self) -> int:
        """Samples in all splits."""
        return sum(manifest.num_samples for manifest in self.manifests.values())


def build(
    source: str | Source,
    dst: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    mode: Mode | None = None,
    fit: Fit = "crop",
    split: float | None = None,
    encoding: Encoding = "auto",
    quality: int = 95,
    workers: int | None = None,
    shard_samples: int = SHARD_SAMPLES,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Built:
    """Build a shard set at `dst`, or `dst/train` and `dst/test` where there are splits.

    Args:
        source: A built-in name, a folder of pictures or IDX files, or an opened source.
        dst: Path or URL of the folder to write.
        size: Side, or (height, width), in pixels; None: the source's own.
        mode: `L` or `RGB`; None: the source's own.
        fit: How pictures of other proportions are brought to the size; see `data.convert`.
        split: Share of the pictures that become `test`, chosen by a hash of their keys; 0 for none;
            None: as the source prefers.
        encoding: `png`, `jpg`, or `auto`: JPEG for what came as JPEG, PNG for the rest.
        quality: Of the JPEGs that have to be written, 1 to 100.
        workers: Threads that decode, convert and encode; None: one for each core.
        shard_samples: Samples after which a new shard begins.
        shard_bytes: Bytes after which a new shard begins.
        overwrite: Remove the shard set that is there first.
        on_progress: Told about every chunk.

    Raises:
        UsageError: The source, an option or the destination cannot be used.
        DataError: Not one picture could be read.
    """
    shape = (size, size) if isinstance(size, int) else size
    _check_choices(mode=(mode, MODES), fit=(fit, FITS), encoding=(encoding, ENCODINGS))
    _check_ranges(
        size=(shape or (1, 1), 1, MAX_SIDE),
        split=((split or 0.0,), 0.0, 0.9),
        quality=((quality,), 1, 100),
        workers=((workers or 1,), 1, 1024),
        shard_samples=((shard_samples,), 1, None),
        shard_bytes=((shard_bytes,), 1, None),
    )
    location = locate(dst)
    opened = open_source(source) if isinstance(source, str) else source
    parts = _parts(opened, split)
    make_room(location, overwrite)
    workers = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers, "distgen-build") as threads:
        # A chunk in work and one waiting for each thread: memory does not grow with the source.
        work = _Work(threads, 2 * workers, on_progress or (lambda _stage, _done, _total: None))
        height, width, mode = _size_and_mode(opened, parts, shape, mode, work)
        _check_ranges(size=((height, width), 1, MAX_SIDE))
        target = Target(height, width, mode, fit, encoding, quality)
        image = ImageSpec(height=height, width=width, mode=mode, classes=opened.classes)
        rejected: list[Rejected] = []
        manifests: dict[str | None, Manifest] = {}
        for name, items in parts.items():
            with SetWriter(
                location / name if name else location,
                name=opened.name,
                image=image,
                fields=_fields(items, encoding, labelled=bool(opened.classes)),
                split=name,
                shard_samples=shard_samples,
                shard_bytes=shard_bytes,
            ) as writer:
                left_out = _write(writer, items, target, work)
                rejected += left_out
                # The list comes before the manifest: a set that is there is complete.
                _list_rejected(location, rejected)
                if len(left_out) == len(items):
                    raise _nothing_readable(left_out)
                manifests[name] = writer.commit()
    return Built(location, manifests, len(rejected))


@dataclass(frozen=True)
class _Work:
    """Threads, and who is told what they have done."""

    threads: ThreadPoolExecutor
    ahead: int
    report: Progress

    def in_order(
        self, stage: str, work: Callable[[Item], T], items: Sequence[Item]
    ) -> Iterator[tuple[Item, T | Rejected]]:
        """Items and what `work` made of them, in order, a few chunks ahead in threads."""

        def results(chunk: Sequence[Item]) -> list[T | Rejected]:
            return [_or_rejected(item, work) for item in chunk]

        chunks = (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
        pending: deque[tuple[Sequence[Item], Future[list[T | Rejected]]]] = deque()
        done = 0
        try:
            while True:
                for chunk in islice(chunks, self.ahead - len(pending)):
                    pending.append((chunk, self.threads.submit(results, chunk)))
                if not pending:
                    return
                chunk, future = pending.popleft()
                yield from zip(chunk, future.result(), strict=True)
                done += len(chunk)
                self.report(stage, done, len(items))
        finally:
            for _, future in pending:
                future.cancel()


def _or_rejected(item: Item, work: Callable[[Item], T]) -> T | Rejected:
    try:
        return work(item)
    except RejectedError as error:
        return Rejected(item.origin, str(error))


def _parts(source: Source, split: float | None) -> dict[str | None, Sequence[Item]]:
    """The items of each split to build."""
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
    parts: dict[str | None, Sequence[Item]] = {
        name: [item for item in items if split_of(item, share) == name]
        for name in ("train", "test")
    }
    empty = [str(name) for name, chosen in parts.items() if not chosen]
    if empty:
        raise UsageError(
            f"The split {empty[0]!r} would be empty.",
            cause=f"{len(items)} pictures, of which a share of {share} becomes 'test'",
            remedy="another --split, or --split 0 for a set without splits",
        )
    return parts


def _size_and_mode(
    source: Source,
    parts: dict[str | None, Sequence[Item]],
    shape: tuple[int, int] | None,
    mode: Mode | None,
    work: _Work,
) -> tuple[int, int, Mode]:
    """Height, width and mode: as asked for, else as the source prefers, else as its pictures are.

    Raises:
        UsageError: The pictures have several sizes and none was asked for.
        DataError: Not one header could be read.
    """
    shape, mode = shape or source.default_size, mode or source.default_mode
    if shape is None or mode is None:
        items = [item for part in parts.values() for item in part]
        headers: Counter[Header] = Counter()
        rejected: list[Rejected] = []
        for _, header in work.in_order("survey", Item.header, items):
            if isinstance(header, Rejected):
                rejected.append(header)
            else:
                headers[header] += 1
        if not headers:
            raise _nothing_readable(rejected)
        shape = shape or _common_size(headers)
        mode = mode or ("L" if all(header.grey for header in headers) else "RGB")
    return (*shape, mode)


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


def _write(writer: SetWriter, items: Sequence[Item], target: Target, work: _Work) -> list[Rejected]:
    """Convert items in threads and add them in order; returns those that could not be read."""
    rejected: list[Rejected] = []
    stage = writer.split or "pictures"
    for item, result in work.in_order(stage, lambda item: convert(item.load(), target), items):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            writer.add(item.key, {result.field: result.data}, item.label)
    return rejected


def _fields(items: Sequence[Item], encoding: Encoding, *, labelled: bool) -> tuple[str, ...]:
    """Extensions that members may have; with `auto` that depends on what the pictures are."""
    pictures: tuple[str, ...] = (encoding,)
    if encoding == "auto":
        arrays = all(not isinstance(item.content, os.PathLike) for item in items)
        pictures = ("png",) if arrays else ("jpg", "png")
    return (*(("cls",) if labelled else ()), *pictures)


def _list_rejected(location: Location, rejected: Sequence[Rejected]) -> None:
    place = location / REJECTED_NAME
    if not rejected:
        place.remove()
        return
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "reason"))
    rows.writerows((each.path, " ".join(each.reason.split())) for each in rejected)
    place.write_bytes(text.getvalue().encode(errors="surrogateescape"))


def _nothing_readable(rejected: Sequence[Rejected]) -> DataError:
    reason, count = Counter(each.reason for each in rejected).most_common(1)[0]
    return DataError(
        f"None of {len(rejected)} files could be read as a picture.",
        where=rejected[0].path,
        cause=f"{reason} ({count} times)",
        remedy=f"pictures are files that end in {', '.join(sorted(SUFFIXES))}",
    )


def _check_choices(**options: tuple[str | None, tuple[str, ...]]) -> None:
    for name, (value, choices) in options.items():
        if value is not None and value not in choices:
            raise UsageError(f"--{name} {value!r} is unknown.", remedy=did_you_mean(value, choices))


def _check_ranges(**options: tuple[tuple[float, ...], float, float | None]) -> None:
    for name, (values, low, high) in options.items():
        if any(value < low or (high is not None and value > high) for value in values):
            given = "x".join(str(value) for value in values)
            limits = f"from {low} to {high}" if high is not None else f"at least {low}"
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is {given}; it has to be {limits}.")
