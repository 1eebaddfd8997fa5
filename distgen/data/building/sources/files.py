"""Files below a folder, on a disk or in a store, and the large ones that hold many pictures."""

from __future__ import annotations

import os
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distgen.core.errors import DataError
from distgen.core.storage import Location, Ranges, locate
from distgen.data.building.convert import RejectedError
from distgen.data.building.sources.item import MAX_FILE_BYTES

_SPLIT = re.compile(r"(train|training|test|val|valid|validation)(?=$|[-_.])", re.IGNORECASE)
_SPLITS = {"training": "train", "valid": "val", "validation": "val"}
_OPEN_FILES = 4
_AHEAD_BYTES = 4 << 20


@dataclass(frozen=True)
class Below:
    """A file below a folder."""

    relative: str
    """Its path from the folder on, with slashes."""
    place: Location
    refused: str = ""
    """Why it cannot be read; empty where it may be."""


def files_below(place: Location) -> list[Below]:
    """All visible files at and below a place, sorted; for a file, itself.

    Raises:
        OSError: A store cannot be reached.
    """
    if place.is_file():
        return [Below(place.name, place)]
    closed: dict[Path, str] = {}
    if place.local is None:
        found = place.find()
    else:
        root = place.local
        found = [path.relative_to(root).as_posix() for path in walk(root, closed)]
    shown = [name for name in sorted(found) if not any(p.startswith(".") for p in name.split("/"))]
    return [
        Below(name, place / name, closed.get(Path(place.path, name)) or _unnameable(name))
        for name in shown
    ]


def visible(folder: Path) -> tuple[list[Path], list[str]]:
    """The folders in a folder, and the names of its files, without those that are hidden.

    Raises:
        OSError: It cannot be listed.
    """
    folders: list[Path] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path) if entry.is_symlink() else None
            # A link may lead round in a circle: then it is no folder.
            if path.is_dir() if path else entry.is_dir():
                folders.append(Path(entry.path))
            else:
                files.append(entry.name)
    return sorted(folders), sorted(files)


def walk(root: Path, closed: dict[Path, str]) -> Iterator[Path]:
    """All visible files below a folder, each folder once, however links run.

    Folders that cannot be listed are among them; `closed` is told why.
    """
    seen: set[tuple[int, int]] = set()

    def on_error(error: OSError) -> None:
        closed[Path(error.filename)] = f"the folder cannot be listed: {error.strerror}"

    for folder, folders, files in os.walk(root, onerror=on_error, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))
    yield from (path for path in sorted(closed) if path.is_relative_to(root))


def by_split(files: Sequence[Below]) -> dict[str | None, list[Below]]:
    """Files by the split that their names or folders begin with; one part where not all say one.

    `train-00000-of-00002.parquet`, `train/0000.parquet` and `data/validation_3.tar` say one.
    """
    parts: dict[str | None, list[Below]] = {}
    for file in files:
        matches = [match for part in file.relative.split("/") if (match := _SPLIT.match(part))]
        said = matches[0][1].lower() if matches else None
        parts.setdefault(_SPLITS.get(said, said) if said else None, []).append(file)
    if None in parts or "train" not in parts:
        return {None: list(files)}
    return {name: parts[name] for name in ("train", "test", "val") if name in parts}


def _unnameable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    return ""


@dataclass(frozen=True)
class StoredFile:
    """A file that holds many pictures, as it was when the source was opened."""

    url: str
    version: str
    """Size and time of change."""

    def unreadable(self, error: Exception) -> DataError:
        """The error that says that it cannot be read any more."""
        place = locate(self.url)
        asked = "" if place.local is not None else f" (credentials: {place.credentials})"
        return DataError(
            "A file of the source cannot be read.",
            where=self.url,
            cause=f"{error}{asked}",
            remedy="copy it again from where it came, then run the same command again",
        )


@dataclass(frozen=True)
class Part:
    """Bytes of a file that are an encoded picture."""

    file: StoredFile
    offset: int
    size: int
    crc32: int | None = None
    """Their checksum, where it is known."""

    @property
    def version(self) -> str:
        """Which bytes of which file."""
        return f"{self.file.url} {self.file.version} {self.offset} {self.size}"

    def load(self) -> bytes:
        """The bytes.

        Raises:
            RejectedError: They are too many, or not those of the checksum.
            DataError: The file cannot be read.
        """
        if self.size > MAX_FILE_BYTES:
            raise RejectedError(f"it is larger than {MAX_FILE_BYTES} bytes")
        try:
            data = _opened(self.file.url).read(self.offset, self.size)
        except OSError as error:
            raise self.file.unreadable(error) from error
        if len(data) != self.size:
            ended = f"it ends at byte {self.offset + len(data)} by now"
            raise self.file.unreadable(ValueError(ended))
        if self.crc32 is not None and zlib.crc32(data) != self.crc32:
            raise RejectedError("it does not match its checksum: it changed after it was written")
        return data


class _Opened:
    """A file that one thread reads, mostly from its beginning to its end."""

    def __init__(self, url: str) -> None:
        place = locate(url)
        self._ranges: Ranges = place.open_ranges()
        # In a store a request costs more than bytes that are not wanted.
        self._ahead = 0 if place.local is not None else _AHEAD_BYTES
        self._begin = 0
        self._data = b""

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        if not self._ahead:
            return self._ranges.read_at(offset, size)
        if not self._begin <= offset <= offset + size <= self._begin + len(self._data):
            self._data = self._ranges.read_at(offset, max(size, self._ahead))
            self._begin = offset
        return self._data[offset - self._begin : offset - self._begin + size]


class _OpenFiles(threading.local):
    """The files that a thread read last."""

    def __init__(self) -> None:
        self.files: OrderedDict[str, _Opened] = OrderedDict()


_open_files = _OpenFiles()


def _opened(url: str) -> _Opened:
    files = _open_files.files
    if url not in files:
        while len(files) >= _OPEN_FILES:
            files.popitem(last=False)
        files[url] = _Opened(url)
    files.move_to_end(url)
    return files[url]
