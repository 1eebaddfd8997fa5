"""What a shard set holds: its manifest, its index, and how to open it."""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from tarfile import BLOCKSIZE
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from distgen.core.config import Config
from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate, sha256_of
from distgen.data.rows import ShardRows, rows_of

FORMAT: Literal["distgen-shards"] = "distgen-shards"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"
PICTURE_FIELDS = ("jpg", "png", "webp")
CLIP_FIELDS = ("npy",)
SPLITS = ("train", "test", "val")

# Row groups stay in memory up to this many rows: 64 lanes over shards of 16,384 samples, twice.
INDEX_CACHE_ROWS = 2_097_152
# An index up to this size is read at once and checked as a whole. Of a larger one, some 2 million
# samples and more, Parquet's checksums of the pages that are used have to do.
INDEX_WHOLE_BYTES = 64 << 20

MAX_SHARD_BYTES = 1 << 50
LEAST_SAMPLE_BYTES = 2 * BLOCKSIZE
"""Of a tar: a header and one block of content."""

SHARD_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*\.tar$"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ShardEntry(Config):
    """One tar of a shard set."""

    name: Annotated[str, Field(pattern=SHARD_NAME)]
    """File name inside the set's folder."""
    bytes: Annotated[NonNegativeInt, Field(le=MAX_SHARD_BYTES)]
    """Size of the file, in bytes."""
    samples: PositiveInt
    """Samples in it."""
    sha256: Sha256
    """Digest of the whole file."""

    @model_validator(mode="after")
    def _has_room(self) -> ShardEntry:
        # A list of rows takes memory for as many samples as are claimed.
        if self.samples * LEAST_SAMPLE_BYTES > self.bytes:
            raise ValueError(f"{self.samples} samples do not fit into {self.bytes} bytes")
        return self


class IndexEntry(Config):
    """The Parquet file that says where in the tars every sample lies."""

    bytes: NonNegativeInt
    """Size of the file, in bytes."""
    sha256: Sha256
    """Digest of the whole file."""


class Manifest(Config):
    """What a shard set is. Written last: a folder without it is not a shard set."""

    format: Literal["distgen-shards"] = FORMAT
    """Marks the file as ours."""
    format_version: Literal[1] = 1
    """Version of this layout and of the order that follows from it."""
    name: str
    """What the set was built from."""
    split: str | None = None
    """`train`, `test`, ..., or null where the set is not divided."""
    fields: tuple[str, ...]
    """Extensions of the members that a sample may have, sorted."""
    image: ImageSpec
    """Size, mode and class names; of clips, their number of frames."""
    num_samples: PositiveInt
    """Samples in all shards."""
    index: IndexEntry
    """Checks the index."""
    shards: tuple[ShardEntry, ...]
    """The tars, in order."""

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        if sum(shard.samples for shard in self.shards) != self.num_samples:
            raise ValueError("num_samples is not the sum of the shards' samples")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("two shards have the same name")
        if not self.sample_fields:
            raise ValueError(f"none of its fields is a sample: {', '.join(self.fields)}")
        return self

    @property
    def sample_fields(self) -> tuple[str, ...]:
        """Extensions of those members that are the picture, or the clip, of a sample."""
        kinds = PICTURE_FIELDS if self.image.frames is None else CLIP_FIELDS
        return tuple(field for field in kinds if field in self.fields)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of what the samples are and how they lie, whatever the set is called."""
        content = {
            "format_version": self.format_version,
            "image": self.image.model_dump(mode="json"),
            "shards": [(shard.samples, shard.sha256) for shard in self.shards],
        }
        return sha256_of(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


@dataclass(frozen=True)
class ShardSet:
    """An opened shard set: where it is and what it says of itself."""

    location: Location
    manifest: Manifest

    @property
    def spec(self) -> ImageSpec:
        """Size, mode and classes of its pictures or clips."""
        return self.manifest.image

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return self.manifest.num_samples

    @property
    def fingerprint(self) -> str:
        """What the order of samples is derived from."""
        return self.manifest.fingerprint

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Index of the first sample of every shard, and the total: int64 [shards + 1]."""
        counts = [shard.samples for shard in self.manifest.shards]
        return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    def shard(self, number: int) -> Location:
        """The tar with this number."""
        return self.location / self.manifest.shards[number].name


def has_split(url: str, split: str) -> bool:
    """Whether `url/<split>` is a shard set, or `url` is one that was built as this split."""
    location = locate(url)
    if (location / split / MANIFEST_NAME).is_file():
        return True
    return (location / MANIFEST_NAME).is_file() and read_manifest(location).split == split


def splits_of(url: str) -> tuple[str, ...]:
    """Names of the folders below `url` that are shard sets, `train` first."""
    location = locate(url)
    if not location.is_dir():
        return ()
    names = {place.name for place in location.list() if (place / MANIFEST_NAME).is_file()}
    known = tuple(name for name in SPLITS if name in names)
    return known + tuple(sorted(names - set(known)))


def open_shard_set(url: str, split: str | None = None) -> ShardSet:
    """The shard set at `url`, or its part `url/<split>`.

    Args:
        url: Path or URL of a folder with a manifest, or of one whose subfolders have one.
        split: Which part is wanted. A set that is not divided answers for `train`.

    Raises:
        UsageError: Nothing is there, or the split is missing or has to be named.
        DataError: The folder has no manifest or its manifest cannot be used.
    """
    location = locate(url)
    if split is not None and (location / split / MANIFEST_NAME).is_file():
        location = location / split
    elif not (location / MANIFEST_NAME).is_file():
        raise _not_a_set(location, split)
    manifest = read_manifest(location)
    if split not in (None, manifest.split) and not (split == "train" and manifest.split is None):
        raise UsageError(
            f"The shard set has no split {split!r}.",
            where=str(location),
            cause=f"it was built as {manifest.split!r}"
            if manifest.split
            else "it was built without splits",
            remedy="distgen data build SRC DST --split 0.1",
        )
    return ShardSet(location, manifest)


def read_manifest(location: Location) -> Manifest:
    """The manifest in a folder.

    Raises:
        DataError: It is not JSON, not a manifest, or of a version that this distgen cannot read.
    """
    place = location / MANIFEST_NAME
    try:
        raw = place.read_json()
    except (ValueError, RecursionError) as error:
        raise _bad_manifest(place, f"it is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise _bad_manifest(place, f"its format is not {FORMAT!r}")
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise DataError(
            f"The shard set is of format version {version!r}; "
            f"this distgen reads version {FORMAT_VERSION}.",
            where=str(place),
            cause="a newer distgen wrote it" if newer else "the manifest was edited or damaged",
            remedy="install a newer distgen" if newer else "distgen data build SRC DST",
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise _bad_manifest(place, f"{key}: {first['msg']}".removeprefix(": ")) from error


def _bad_manifest(place: Location, cause: str) -> DataError:
    return DataError(
        "The manifest of this shard set cannot be used.",
        where=str(place),
        cause=cause,
        remedy="build the set again: distgen data build SRC DST --overwrite",
    )


def _not_a_set(location: Location, split: str | None) -> UsageError | DataError:
    """Why nothing could be opened at `location`, in the words that help most."""
    splits = splits_of(location.url)
    if splits and split is None:
        return UsageError(
            f"{str(location)!r} holds several shard sets: {', '.join(splits)}.",
            remedy=f"name one of them: {location / splits[0]}",
        )
    if splits and split is not None:
        return UsageError(
            f"The shard set has no split {split!r}.",
            where=str(location),
            remedy=did_you_mean(split, splits),
        )
    if location.is_file():
        return UsageError(
            f"{str(location)!r} is a file; a shard set is a folder with a {MANIFEST_NAME}.",
            remedy=f"try its folder: {location.parent}",
        )
    if not location.is_dir():
        siblings = [
            str(place)
            for place in location.parent.list()
            if (place / MANIFEST_NAME).is_file() or splits_of(place.url)
        ]
        build = f"distgen data build SRC {location}"
        near = f"; or {did_you_mean(str(location), siblings)}" if siblings else ""
        return UsageError(f"There is no shard set at {str(location)!r}.", remedy=build + near)
    if any(place.name.endswith(".tar") for place in location.list()):
        return DataError(
            f"{str(location)!r} holds tars but no {MANIFEST_NAME}, so it is not a shard set.",
            cause="its build did not finish, or the tars come from another tool",
            remedy=f"run its build again: distgen data build SRC {location}; or for tars of "
            f"another tool: distgen data index {location}",
        )
    return UsageError(
        f"{str(location)!r} is a folder without a {MANIFEST_NAME}, so it is not a shard set.",
        cause="nothing was built there yet",
        remedy=f"if it holds pictures: distgen data build {location} DST",
    )


class IndexReader:
    """Rows of the index, one shard at a time, with a bounded number of them in memory.

    Thread-safe. Memory is O(shards) for the Parquet footer and O(1) for the rows.
    """

    def __init__(self, shard_set: ShardSet, cache_rows: int = INDEX_CACHE_ROWS) -> None:
        self._set = shard_set
        self._cache_rows = cache_rows
        self._cached: OrderedDict[int, ShardRows] = OrderedDict()
        self._lock = threading.Lock()
        self._place = shard_set.location / INDEX_NAME
        self._file = self._open()

    def rows(self, shard: int) -> ShardRows:
        """Where the pictures of this shard lie.

        Raises:
            DataError: The index is damaged.
        """
        with self._lock:
            rows = self._cached.get(shard)
            if rows is None:
                rows = self._load(shard)
                self._cached[shard] = rows
                held = sum(len(each.label) for each in self._cached.values())
                while held > self._cache_rows and len(self._cached) > 1:
                    held -= len(self._cached.popitem(last=False)[1].label)
            self._cached.move_to_end(shard)
            return rows

    def table(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """All columns, or the named ones, of this shard's rows."""
        with self._lock:
            return self._read(shard, columns)

    def key(self, shard: int, row: int) -> str:
        """The name of a sample: what comes before the first dot of its members."""
        return str(self.table(shard, ["key"]).column("key")[row].as_py())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self._source(), page_checksum_verification=True)
        except FileNotFoundError as error:
            raise DataError(
                "The shard set has lost its index.",
                where=str(self._place),
                remedy="build the set again: distgen data build SRC DST --overwrite",
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(str(error)) from error
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        if counts != [shard.samples for shard in self._set.manifest.shards]:
            raise self._damaged("its row groups are not the manifest's shards")
        return file

    def _source(self) -> pa.NativeFile:
        expected = self._set.manifest.index
        if expected.bytes > INDEX_WHOLE_BYTES:
            return self._place.open_input()
        data = self._place.read_bytes()
        if sha256_of(data) != expected.sha256:
            raise self._damaged("its SHA-256 is not the one in the manifest")
        return pa.BufferReader(data)

    def _read(self, shard: int, columns: list[str] | None) -> pa.Table:
        try:
            return self._file.read_row_group(shard, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(str(error)) from error

    def _load(self, shard: int) -> ShardRows:
        present = self._set.manifest.sample_fields
        columns = [f"{field}.{part}" for field in present for part in ("offset", "size", "crc32")]
        table = self._read(shard, ["label", *columns])
        try:
            rows = rows_of(table, present)
            rows.check_reach(self._set.manifest.shards[shard].bytes)
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise self._damaged(f"{self._set.shard(shard).name}: {error}") from error
        return rows

    def _damaged(self, cause: str) -> DataError:
        return DataError(
            "The index of this shard set cannot be used.",
            where=str(self._place),
            cause=cause,
            remedy=f"distgen data verify {self._set.location}",
        )
