"""What is in a shard set, whether its bytes are still right, and what its pictures look like."""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.core.storage import Location, sha256_of
from distgen.data.index import INDEX_NAME, IndexReader, ShardSet
from distgen.data.streaming.loader import read_labels, read_samples

INSPECTED_PICTURES = 10_000
MAX_PREVIEW = 1024

_READ_BYTES = 8 << 20
_MEASURED_BYTES = 64 << 20  # of decoded samples, whose values take eight times as much
_MAX_PROBLEMS = 100
_MARGIN, _FONT_SIZE, _SMALLEST_TILE = 4, 14, 64

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True)
class Summary:
    """What `inspect` found. Mean and standard deviation are of uint8 values, by channel."""

    url: str
    name: str
    split: str | None
    format_version: int
    fingerprint: str
    samples: int
    shards: int
    bytes: int
    fields: tuple[str, ...]
    height: int
    width: int
    mode: str
    frames: int | None
    classes: dict[str, int]
    unlabelled: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pictures_measured: int


def inspect(
    shard_set: ShardSet,
    pictures: int = INSPECTED_PICTURES,
    on_progress: Progress | None = None,
) -> Summary:
    """Counts, sizes, classes, and the mean and standard deviation of pixels.

    Args:
        shard_set: What to look at.
        pictures: Pictures, or clips, to decode for the mean, spread evenly over the set; all where
            it has fewer.
        on_progress: Told how many of them are done.

    Raises:
        DataError: The index or a picture is damaged.
    """
    manifest, spec = shard_set.manifest, shard_set.spec
    count = min(pictures, shard_set.num_samples)
    chosen = np.linspace(0, shard_set.num_samples - 1, count, dtype=np.int64)
    total = np.zeros(spec.channels)
    squares = np.zeros(spec.channels)
    step = max(1, min(1024, _MEASURED_BYTES // math.prod(spec.shape)))
    for start in range(0, count, step):
        images_nhwc, _ = read_samples(shard_set, chosen[start : start + step])
        values = images_nhwc.reshape(-1, spec.channels).astype(np.float64)
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
        if on_progress:
            on_progress(min(start + step, count), count)
    pixels = max(1, count * math.prod(spec.shape) // spec.channels)
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    labels = read_labels(shard_set)
    counts = np.bincount(labels[labels >= 0], minlength=spec.num_classes)
    return Summary(
        url=str(shard_set.location),
        name=manifest.name,
        split=manifest.split,
        format_version=manifest.format_version,
        fingerprint=manifest.fingerprint,
        samples=manifest.num_samples,
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        fields=manifest.fields,
        height=spec.height,
        width=spec.width,
        mode=spec.mode,
        frames=spec.frames,
        classes=dict(zip(spec.classes, counts.tolist(), strict=False)),
        unlabelled=int((labels < 0).sum()),
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(float(value), 4) for value in std),
        pictures_measured=count,
    )


@dataclass(frozen=True)
class Problem:
    """Stored bytes that are not what was written: which file, which range of it, and why."""

    file: str
    what: str
    key: str | None = None
    begin: int | None = None
    end: int | None = None

    def __str__(self) -> str:
        sample = f", sample {self.key!r}" if self.key is not None else ""
        place = f", bytes {self.begin} to {self.end}" if self.begin is not None else ""
        return f"{self.file}{sample}{place}: {self.what}"


@dataclass
class Verdict:
    """What `verify` found."""

    url: str
    shards: int = 0
    samples: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every byte is the one that was written."""
        return not self.problems

    def raise_if_bad(self) -> None:
        """Raise where something is wrong.

        Raises:
            DataError: It lists the problems.
        """
        if self.ok:
            return
        count = len(self.problems)
        listed = "\n".join(f"    {problem}" for problem in self.problems[:_MAX_PROBLEMS])
        raise DataError(
            f"{count} {'part' if count == 1 else 'parts'} of this shard set "
            f"{'is' if count == 1 else 'are'} not as written:\n{listed}",
            where=self.url,
            cause="the files were changed, damaged or cut short after they were written",
            remedy="copy these files again from where the set came, or build it again: "
            "distgen data build SRC DST --overwrite",
        )


def verify(shard_set: ShardSet, on_progress: Progress | None = None) -> Verdict:
    """Read every byte of a shard set and compare it with what the manifest and the index say.

    Args:
        shard_set: What to check.
        on_progress: Told how many bytes are read, of how many.

    Returns:
        The problems: a shard whose SHA-256 differs is searched for the samples that changed.
    """
    manifest = shard_set.manifest
    verdict = Verdict(str(shard_set.location))
    index = _sound_index(shard_set, verdict)
    total = sum(shard.bytes for shard in manifest.shards)
    for number, shard in enumerate(manifest.shards):
        place = shard_set.shard(number)
        before = verdict.bytes

        def report(done: int, before: int = before) -> None:
            if on_progress:
                on_progress(min(before + done, total), total)

        try:
            size, digest = _hash(place, report)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            what = "the shard is missing" if missing else f"it cannot be read: {error}"
            verdict.problems.append(Problem(place.url, what))
            continue
        verdict.bytes += size
        if size != shard.bytes:
            what = f"it has {size} bytes instead of {shard.bytes}"
            verdict.problems.append(Problem(place.url, what, begin=size, end=shard.bytes))
        elif digest != shard.sha256:
            found = list(_damaged_members(place, index.table(number))) if index else []
            outside = Problem(place.url, "its SHA-256 differs, in tar headers or padding")
            verdict.problems += found or [outside]
        verdict.shards += 1
        verdict.samples += shard.samples
    if index:
        index.close()
    return verdict


def _sound_index(shard_set: ShardSet, verdict: Verdict) -> IndexReader | None:
    place = shard_set.location / INDEX_NAME
    try:
        if sha256_of(place.read_bytes()) != shard_set.manifest.index.sha256:
            verdict.problems.append(Problem(place.url, "its SHA-256 differs"))
            return None
        return IndexReader(shard_set)
    except (OSError, DataError) as error:
        what = "the index is missing" if isinstance(error, FileNotFoundError) else str(error)
        verdict.problems.append(Problem(place.url, what))
        return None


def _hash(place: Location, report: Callable[[int], None]) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with place.open_input() as stream:
        while data := stream.read(_READ_BYTES):
            digest.update(data)
            size += len(data)
            report(size)
    return size, digest.hexdigest()


def _damaged_members(place: Location, rows: pa.Table) -> Iterator[Problem]:
    """The members of a shard whose bytes do not match their checksums."""
    columns: dict[str, list[Any]] = {
        name: rows.column(name).to_pylist() for name in rows.schema.names
    }
    fields = sorted(name.removesuffix(".crc32") for name in columns if name.endswith(".crc32"))
    with place.open_input() as file:
        for row, key in enumerate(columns["key"]):
            for name in fields:
                begin, size = columns[f"{name}.offset"][row], columns[f"{name}.size"][row]
                if begin is None:
                    continue
                if zlib.crc32(file.read_at(size, begin)) != columns[f"{name}.crc32"][row]:
                    what = f"the member .{name} does not match its checksum"
                    yield Problem(place.url, what, key, begin, begin + size)


def preview(
    shard_set: ShardSet, *, columns: int = 10, rows: int | None = None, label: str | None = None
) -> bytes:
    """A contact sheet of the set as PNG: one row for each class, or a grid where there are none.

    A clip has a row of its own: frames spread evenly from its first to its last.

    Args:
        shard_set: What to show.
        columns: Pictures in a row, or frames of a clip, at most.
        rows: Rows; None: one for each class, else as many as columns.
        label: Show only this class, in a grid.

    Raises:
        UsageError: The class is unknown or has no pictures, or the sheet would be absurdly large.
        DataError: A picture is damaged.
    """
    spec = shard_set.spec
    of_clips = spec.frames is not None
    by_class = label is None and spec.num_classes > 0
    if rows is None:
        usual = max(spec.num_classes, columns) if of_clips else spec.num_classes
        rows = min(usual, MAX_PREVIEW // max(1, columns)) if by_class else columns
    if columns < 1 or not 1 <= rows * columns <= MAX_PREVIEW:
        raise UsageError(
            f"A sheet of {columns} x {rows} pictures cannot be made.",
            remedy=f"from 1 to {MAX_PREVIEW} pictures",
        )
    labels_n = read_labels(shard_set) if spec.num_classes else np.full(shard_set.num_samples, -1)
    in_line = 1 if of_clips else columns
    if by_class:
        lines_each = max(1, rows // spec.num_classes) if of_clips else 1
        wanted = [(number, name, lines_each) for number, name in enumerate(spec.classes)]
    else:
        wanted = [(-1 if label is None else _label_of(shard_set, label), "", rows)]
    lines, titles = [], []
    for number, title, most in wanted:
        chosen = np.flatnonzero(labels_n == number)[: most * in_line]
        starts = range(0, max(1, len(chosen)), in_line)  # a class without samples has a row too
        lines += [chosen[start : start + in_line] for start in starts]
        titles += [title] * len(starts)
    return _sheet(shard_set, lines[:rows], titles[:rows], columns)


def _label_of(shard_set: ShardSet, name: str) -> int:
    classes = shard_set.spec.classes
    if name not in classes:
        raise UsageError(
            f"The shard set has no class {name!r}.",
            where=str(shard_set.location),
            remedy=did_you_mean(name, classes),
        )
    return classes.index(name)


def _sheet(shard_set: ShardSet, lines: list[np.ndarray], titles: list[str], columns: int) -> bytes:
    """Rows of pictures with their titles on the left, each picture enlarged by a whole factor."""
    spec = shard_set.spec
    factor = max(1, -(-_SMALLEST_TILE // max(spec.height, spec.width)))
    tile = (spec.width * factor, spec.height * factor)
    font = ImageFont.load_default(_FONT_SIZE)
    left = _MARGIN + max((int(font.getlength(t)) + _MARGIN for t in titles if t), default=0)
    shown = None if spec.frames is None else spread(spec.frames, columns)
    width = max((len(line) for line in lines), default=0) * (1 if shown is None else len(shown))
    size = (left + width * (tile[0] + _MARGIN), _MARGIN + len(lines) * (tile[1] + _MARGIN))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, (line, title) in enumerate(zip(lines, titles, strict=True)):
        top = _MARGIN + row * (tile[1] + _MARGIN)
        draw.text((_MARGIN, top + tile[1] // 2), title, fill="black", font=font, anchor="lm")
        images_nhwc, _ = read_samples(shard_set, line)
        if shown is not None:
            images_nhwc = images_nhwc[:, shown].reshape(-1, *spec.shape[1:])
        for column, pixels in enumerate(images_nhwc):
            picture = Image.fromarray(pixels[:, :, 0] if spec.channels == 1 else pixels)
            place = (left + column * (tile[0] + _MARGIN), top)
            sheet.paste(picture.resize(tile, Image.Resampling.NEAREST), place)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def spread(frames: int, most: int) -> np.ndarray:
    """At most so many frames of a clip, the first and the last among them, evenly apart."""
    return np.linspace(0, frames - 1, min(frames, most)).round().astype(np.int64)
