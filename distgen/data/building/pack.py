"""Writing shard sets: tars by `webdataset`, an index beside them, and the manifest last.

A set is a function of what is added to it: times, users and names of the machine do not enter, so
the same pictures give the same bytes.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa

from distgen.core.errors import DataError, UsageError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location
from distgen.data.building.output import IndexWriter, Output
from distgen.data.index import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    read_manifest,
    splits_of,
)

SHARD_SAMPLES = 8192
"""Samples after which a new shard begins."""
SHARD_BYTES = 256 * 1024 * 1024
"""Bytes after which a new shard begins."""

_BLOCK = 512  # tar headers and padding
_LONGEST_MEMBER = 100  # what fits one ustar header; longer names would need a second block
_OWNER = "distgen"
_ASIDE = ".next"
_STAGE = ".stage"
"""File of a whole set aside, which says how far it has come on its way to its place."""
_REMOVING, _MOVING = "removing what was there", "moving"
_SHARD_NAME = re.compile(r"(shard|train|test|val)-\d{6}\.tar")
_SCRAP_NAME = re.compile(rf"\.({_SHARD_NAME.pattern}|{re.escape(INDEX_NAME)})\.\d+\.tmp")


class FinishedShard(NamedTuple):
    """A tar that is whole, and its rows of the index."""

    entry: ShardEntry
    rows: list[dict[str, Any]]


class SetWriter:
    """Writes one shard set; nothing is a set before `commit`.

    Use as a context manager: what was begun is removed where the block raises or never commits.

    Args:
        location: The folder to write; made where it is not there.
        name: What the manifest calls the set.
        image: Size, mode and classes of the pictures.
        fields: Extensions of the members that samples may have, such as `("cls", "png")`.
        split: `train`, `test`, ... or None.
        shard_samples: Samples after which a new shard begins.
        shard_bytes: Bytes after which a new shard begins.
    """

    def __init__(
        self,
        location: Location,
        *,
        name: str,
        image: ImageSpec,
        fields: tuple[str, ...],
        split: str | None = None,
        shard_samples: int = SHARD_SAMPLES,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._location = location.make_dir()
        self._name = name
        self._image = image
        self._fields = tuple(sorted(fields))
        self.split = split
        self._prefix = split or "shard"
        self._limits = (shard_samples, shard_bytes)
        self._shards: list[ShardEntry] = []
        self._shard: _ShardFile | None = None
        self._index = IndexWriter(location, self._fields)

    def add(self, key: str, members: Mapping[str, bytes], label: int = -1) -> None:
        """Append a sample.

        Args:
            key: Its name: no dots, at most 90 ASCII characters, unique in the set.
            members: Bytes by extension.
            label: Its class, or -1; written as the member `cls` where `cls` is a field of the set.
        """
        if self.is_shard_full():
            self.next_shard()
        if self._shard is None:
            name = f"{self._prefix}-{len(self._shards):06d}.tar"
            self._shard = _ShardFile(self._location / name, self._image)
        labelled = {"cls": str(label).encode()} if label >= 0 and "cls" in self._fields else {}
        self._shard.add(key, {**members, **labelled}, label)

    def is_shard_full(self) -> bool:
        """Whether the next sample goes into another shard."""
        return self._shard is not None and self._shard.is_full(*self._limits)

    def next_shard(self) -> FinishedShard | None:
        """Finish the shard that was begun, if any: the next sample goes into another."""
        if self._shard is None:
            return None
        finished = FinishedShard(*self._shard.close())
        self._shard = None
        self.take(finished)
        return finished

    def take(self, finished: FinishedShard) -> None:
        """Count a shard that lies in the folder already, after those that are counted so far."""
        self._index.add(pa.Table.from_pylist(finished.rows, schema=self._index.schema))
        self._shards.append(finished.entry)

    def commit(self) -> Manifest:
        """Finish the last shard and make the folder a shard set.

        Raises:
            UsageError: Nothing was added.
        """
        self.next_shard()
        if not self._shards:
            raise UsageError("A shard set needs at least one sample.", where=str(self._location))
        index = self._index.commit()
        manifest = Manifest(
            name=self._name,
            split=self.split,
            fields=self._fields,
            image=self._image,
            num_samples=sum(shard.samples for shard in self._shards),
            index=index,
            shards=tuple(self._shards),
        )
        self._remove_leftovers()
        (self._location / MANIFEST_NAME).write_json(manifest.model_dump(mode="json"))
        return manifest

    def abort(self) -> None:
        """Remove what is unfinished; does nothing after `commit`."""
        self._index.abort()
        if self._shard is not None:
            self._shard.abort()
            self._shard = None

    def __enter__(self) -> SetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _remove_leftovers(self) -> None:
        """Remove what earlier builds left that did not finish."""
        names = {shard.name for shard in self._shards}
        for place in self._location.list():
            spare = _SHARD_NAME.fullmatch(place.name) and place.name not in names
            if spare or _SCRAP_NAME.fullmatch(place.name):
                place.remove()


def existing_sets(location: Location) -> list[Location]:
    """The folders at and below `location` that are shard sets."""
    places = [location / split for split in splits_of(location.url)]
    return [location, *places] if (location / MANIFEST_NAME).is_file() else places


def remove_set(location: Location) -> None:
    """Remove a shard set, manifest first, and nothing that is not part of it."""
    try:
        names = {shard.name for shard in read_manifest(location).shards}
    except DataError:  # what cannot be read has to be replaceable too
        names = {place.name for place in location.list() if _SHARD_NAME.fullmatch(place.name)}
    for name in (MANIFEST_NAME, INDEX_NAME, *sorted(names)):
        (location / name).remove()


class _ShardFile:
    """One tar being written, and where its members lie."""

    def __init__(self, place: Location, image: ImageSpec) -> None:
        from webdataset import TarWriter  # imports torch: a second that only writers should pay

        self._place = place
        self._file = Output(place)
        self._tar = TarWriter(
            self._file, user=_OWNER, group=_OWNER, mtime=0, encoder=False, compress=False
        )
        self._rows: list[dict[str, Any]] = []
        self._size = {"width": image.width, "height": image.height}

    def is_full(self, samples: int, size: int) -> bool:
        return len(self._rows) >= samples or self._tar.tarstream.offset >= size

    def add(self, key: str, members: Mapping[str, bytes], label: int) -> None:
        longest = max(len(field) for field in members)
        if not key.isascii() or "." in key or len(key) + 1 + longest > _LONGEST_MEMBER:
            raise UsageError(f"{key!r} cannot be the key of a sample.", where=str(self._place))
        row: dict[str, Any] = {"key": key, "label": label, **self._size}
        place = self._tar.tarstream.offset
        for field in sorted(members):  # the order in which TarWriter writes them
            data = members[field]
            row |= {
                f"{field}.offset": place + _BLOCK,
                f"{field}.size": len(data),
                f"{field}.crc32": zlib.crc32(data),
            }
            place += _BLOCK + -(-len(data) // _BLOCK) * _BLOCK
        self._tar.write({"__key__": key, **members})
        if self._tar.tarstream.offset != place:
            raise RuntimeError(f"webdataset wrote {key!r} in another layout than the index says")
        self._rows.append(row)

    def close(self) -> tuple[ShardEntry, list[dict[str, Any]]]:
        self._tar.close()
        size, digest = self._file.commit()
        entry = ShardEntry(
            name=self._place.name, bytes=size, samples=len(self._rows), sha256=digest
        )
        return entry, self._rows

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._tar.close()
        self._file.abort()


def check_room(location: Location, overwrite: bool) -> list[Location]:
    """The shard sets that one written here would replace.

    Raises:
        UsageError: A file is here, or a shard set that must not be overwritten.
    """
    if location.is_file():
        raise UsageError(f"{str(location)!r} is a file; a shard set is a folder.")
    there = existing_sets(location)
    if there and not overwrite:
        raise UsageError(
            f"There is a shard set at {str(there[0])!r} already.",
            remedy="another folder, or --overwrite to replace it",
        )
    return there


@contextlib.contextmanager
def replacing(
    location: Location,
    overwrite: bool,
    reusable: Callable[[Location], bool] = lambda _aside: False,
) -> Iterator[Location]:
    """Where to write a set so that one that is here stays until the block has ended well.

    Without one the set is written in place. An object store has to copy what is written aside.

    Args:
        location: Where the set, or the folders of its splits, will be.
        overwrite: Whether one that is here may be replaced.
        reusable: Says of what a block that ended early left aside whether it stays for the next.

    Yields:
        The folder to commit the set in, or its splits in folders below.

    Raises:
        UsageError: A file is here, or a shard set that must not be overwritten.
    """
    aside = location / _ASIDE
    if (aside / _STAGE).is_file():
        _take_over(aside, location)  # for whoever was killed at it
    there = check_room(location, overwrite)
    if not there or not reusable(aside):
        aside.remove()
    if not there:
        yield location
        return
    try:
        yield aside
    except BaseException:
        if not reusable(aside):
            aside.remove()
        raise
    (aside / _STAGE).write_text(_REMOVING)
    _take_over(aside, location)


def _take_over(aside: Location, location: Location) -> None:
    """Put what is whole aside into the place of what is there, from where that was left."""
    stage = aside / _STAGE
    if stage.read_bytes() == _REMOVING.encode():
        for place in existing_sets(location):
            if place.name != _ASIDE:
                remove_set(place)
        stage.write_text(_MOVING)
    _move_all(aside, location)
    aside.remove()


def _move_all(source: Location, target: Location) -> None:
    """Move files, those of splits too, and of each folder the manifest last."""
    for place in sorted(source.list(), key=lambda place: place.name == MANIFEST_NAME):
        if place.name == _STAGE:
            continue
        if place.is_dir():
            _move_all(place, (target / place.name).make_dir())
        else:
            place.move_to(target / place.name)
