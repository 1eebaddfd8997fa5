"""`distgen data index`: a manifest and an index for tars that others wrote, which stay as they are.

Samples are what the `webdataset` library would read; see `data.foreign`. Pictures go to the decoder
as they are, so they have to be of one size, grey or RGB, opaque and upright: `distgen data build`
makes such pictures of all others. Clips have to be arrays of one shape.
"""

from __future__ import annotations

import fnmatch
import os
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from distgen.core.errors import DataError, UsageError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate
from distgen.data.building.classes import number_classes
from distgen.data.building.output import IndexWriter
from distgen.data.formats.foreign import (
    CLIP,
    MAX_FIELDS,
    PICTURES,
    Found,
    Look,
    Rules,
    scan_tar,
    too_many_fields,
)
from distgen.data.formats.tars import TarFile
from distgen.data.index import MANIFEST_NAME, SHARD_NAME, Manifest, ShardEntry

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

Progress = Callable[[int, int], None]
"""Called with the bytes that were read and the bytes there are."""


@dataclass(frozen=True)
class Tar:
    """A tar that was read. Its rows lie in a file of their own."""

    place: Location
    size: int
    sha256: str
    found: Found
    rows: Path


@dataclass(frozen=True)
class Indexed:
    """What `index` made, and what it left out."""

    location: Location
    manifest: Manifest
    without_picture: int
    """Samples that have no picture and are no clip, so that they are not in the set."""
    first_without: str | None
    """One of them."""
    empty: tuple[str, ...]
    """Tars without a single picture or clip."""


def index(
    url: str | os.PathLike[str],
    *,
    match: str = "*.tar",
    picture: str | None = None,
    label_key: str | None = None,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Indexed:
    """Make the tars in a folder a shard set, without changing them.

    Args:
        url: Path or URL of the folder.
        match: Which of its files are shards, as a pattern.
        picture: Extension of the members that are the pictures or clips, where samples have
            several.
        label_key: Key in the `json` members that says the class; None: `cls` members do.
        classes: Class names in label order; None: the numbers or names that samples have.
        split: What the manifest calls the part that this is: `train`, `test`, ...
        workers: Tars that are read at a time; None: one for each core, in a store 16.
        overwrite: Replace the manifest that is there.
        on_progress: Told how much was read.

    Raises:
        UsageError: The folder, or an option, cannot be used.
        DataError: A tar is damaged, or its pictures cannot be streamed as they are.
    """
    location = locate(url)
    places = _tars(location, match)
    if (location / MANIFEST_NAME).is_file() and not overwrite:
        raise UsageError(
            f"There is a shard set at {str(location)!r} already.",
            remedy="--overwrite to index its tars again; they stay as they are",
        )
    rules = _rules(picture, label_key)
    workers = workers or (os.cpu_count() or 1 if location.local is not None else 16)
    with tempfile.TemporaryDirectory(prefix="distgen-index-") as aside:
        with ThreadPoolExecutor(workers, "distgen-index") as threads:
            scan = _Scan(rules, Path(aside), on_progress)
            scan.total = sum(threads.map(Location.size, places))
            tars = list(_in_order(threads, 2 * workers, scan.one, places))
        return _write(location, tars, classes, split)


class _Scan:
    """Scans tars in threads, and adds up what they have read."""

    def __init__(self, rules: Rules, aside: Path, on_progress: Progress | None) -> None:
        self.total = 0
        self._rules = rules
        self._aside = aside
        self._on_progress = on_progress
        self._done = 0
        self._lock = Lock()

    def one(self, place: Location) -> Tar:
        """What is in a tar; its rows are written to a file."""
        try:
            size = place.size()
            file = TarFile(place.open_ranges(), size, str(place), self._add)
            found, table = scan_tar(file, self._rules)
            sha256 = file.sha256()
        except OSError as error:
            asked = "" if place.local is not None else f" (credentials: {place.credentials})"
            raise DataError(
                "A tar cannot be read.", where=str(place), cause=f"{error}{asked}"
            ) from error
        # Rows wait on the disk until all classes and members are known: memory stays flat.
        rows = self._aside / f"{place.name}.parquet"
        pq.write_table(table, rows, compression="zstd")
        return Tar(place, size, sha256, found, rows)

    def _add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._on_progress:
                self._on_progress(self._done, self.total)


def _in_order(
    threads: ThreadPoolExecutor,
    ahead: int,
    work: Callable[[Location], Tar],
    places: Sequence[Location],
) -> Iterator[Tar]:
    """What `work` returns for each place; after an error nothing more is begun."""
    waiting: deque[Future[Tar]] = deque()
    try:
        for place in places:
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
            waiting.append(threads.submit(work, place))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _write(
    location: Location, tars: list[Tar], names: Sequence[str] | None, split: str | None
) -> Indexed:
    look: Look | None = None
    fields: set[str] = set()
    labels: dict[str, str] = {}
    for tar in tars:
        if tar.found.look is not None:
            look = tar.found.look.check_same(look)
        fields |= set(tar.found.fields)
        for text, sample in tar.found.labels.items():
            labels.setdefault(text, sample)
    full = [tar for tar in tars if tar.found.samples]
    without = [tar.found for tar in tars if tar.found.without_picture]
    if look is None:
        raise DataError(
            "No sample in these tars has a picture, or is a clip, that can be streamed.",
            where=str(location),
            cause=next((tar.found.no_clip for tar in tars if tar.found.no_clip), None)
            or f"a picture is a member .{', .'.join(PICTURES)}, a clip a member .{CLIP}",
            remedy=f"distgen data build {location} DST",
        )
    if len(fields) > MAX_FIELDS:
        raise too_many_fields(str(location), fields)
    classes, numbers = number_classes(labels, names)
    writer = IndexWriter(location, sorted(fields))
    try:
        for tar in full:
            writer.add(_final_rows(pq.read_table(tar.rows), writer.schema, numbers, look))
        (location / MANIFEST_NAME).remove()  # from here on an old one would be wrong
        entry = writer.commit()
    finally:
        writer.abort()
    manifest = Manifest(
        name=location.name,
        split=split,
        fields=tuple(sorted(fields)),
        image=ImageSpec(
            height=look.height,
            width=look.width,
            mode=look.mode,
            classes=classes,
            frames=look.frames,
        ),
        num_samples=sum(tar.found.samples for tar in full),
        index=entry,
        shards=tuple(
            ShardEntry(
                name=tar.place.name, bytes=tar.size, samples=tar.found.samples, sha256=tar.sha256
            )
            for tar in full
        ),
    )
    (location / MANIFEST_NAME).write_json(manifest.model_dump(mode="json"))
    return Indexed(
        location,
        manifest,
        without_picture=sum(found.without_picture for found in without),
        first_without=without[0].first_without if without else None,
        empty=tuple(tar.place.name for tar in tars if not tar.found.samples),
    )


def _final_rows(rows: pa.Table, schema: pa.Schema, numbers: dict[str, int], look: Look) -> pa.Table:
    """The rows of a shard as the index has them: all columns, and numbers for labels."""
    labels = rows.column("label").to_pylist()
    known = {
        "label": pa.array([-1 if text is None else numbers[text] for text in labels], pa.int32()),
        "width": pa.repeat(pa.scalar(look.width, pa.int32()), rows.num_rows),
        "height": pa.repeat(pa.scalar(look.height, pa.int32()), rows.num_rows),
    }
    columns = [
        known[column.name]
        if column.name in known
        else rows.column(column.name)
        if column.name in rows.column_names
        else pa.nulls(rows.num_rows, column.type)
        for column in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _rules(picture: str | None, label_key: str | None) -> Rules:
    extension = picture.lower().lstrip(".") if picture else None
    if extension and extension.rpartition(".")[2] not in (*PICTURES, CLIP):
        raise UsageError(
            f"--picture {picture!r} is no kind of picture or clip that can be streamed.",
            remedy=f"an extension that ends in {', '.join((*PICTURES, CLIP))}",
        )
    return Rules(extension, label_key)


def _tars(location: Location, match: str) -> list[Location]:
    """The shards in a folder."""
    if not location.is_dir():
        raise UsageError(f"There is no folder at {str(location)!r}.")
    there = location.list()
    places = [place for place in there if fnmatch.fnmatchcase(place.name, match)]
    packed = [place.name for place in there if place.name.endswith(COMPRESSED)]
    if not places:
        raise UsageError(
            f"{str(location)!r} holds no file {match!r}.",
            cause=f"{packed[0]} is compressed: no part of it can be read by itself"
            if packed
            else None,
            remedy="decompress the tars first: gzip -d *.tar.gz"
            if packed
            else "name the folder that holds the tars, or another --match",
        )
    for place in places:
        if not re.match(SHARD_NAME, place.name):
            raise UsageError(
                f"{place.name!r} cannot be the name of a shard.",
                where=str(location),
                remedy="letters, digits, dots, underscores and hyphens, with .tar at the end",
            )
    return places
