"""One way to name, read and write bytes, on a disk or in an object store (`pyarrow.fs`)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pyarrow import NativeFile, PythonFile
from pyarrow import fs as pafs

from distgen.core import stores
from distgen.core.errors import DataError, UsageError
from distgen.core.secrets import shielded

T = TypeVar("T")


@dataclass(frozen=True)
class Location:
    """A file or folder somewhere: a filesystem and a path in it.

    Files appear whole or not at all: on a disk they are written aside, synced and renamed, and an
    object store shows an object only when its upload is complete. A folder that must appear whole
    has its manifest written last.
    """

    filesystem: pafs.FileSystem
    path: str
    url: str

    def __truediv__(self, name: str) -> Location:
        return self._moved(f"{self.path}/{name}", lambda address: f"{address}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The folder that holds this one."""
        return self._moved(
            self.path.rstrip("/").rpartition("/")[0],
            lambda address: address.rpartition("/")[0],
        )

    def _moved(self, path: str, move: Callable[[str], str]) -> Location:
        if self.local is not None:
            return Location(self.filesystem, path, path)
        # Options of an object store, such as its endpoint, stay behind the path.
        address, mark, options = self.url.partition("?")
        return Location(self.filesystem, path, f"{move(address.rstrip('/'))}{mark}{options}")

    @property
    def local(self) -> Path | None:
        """The path on this machine's disk, or None for an object store."""
        return Path(self.path) if isinstance(self.filesystem, pafs.LocalFileSystem) else None

    @property
    def credentials(self) -> str:
        """Where the credentials for this place come from, in words."""
        return stores.credentials_of(self.filesystem, self.url)

    def is_file(self) -> bool:
        """Whether a file is here."""
        return bool(self._info().type == pafs.FileType.File)

    def is_dir(self) -> bool:
        """Whether a folder (or, in an object store, anything below this prefix) is here."""
        return bool(self._info().type == pafs.FileType.Directory)

    def size(self) -> int:
        """Bytes of the file here.

        Raises:
            FileNotFoundError: No file is here.
        """
        info = self._info()
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(self.url)
        return int(info.size)

    def version(self) -> str:
        """Size and time of change of the file here, as text that changes when the file does.

        Raises:
            FileNotFoundError: No file is here.
        """
        info = self._info()
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(self.url)
        return f"{info.size} {info.mtime_ns}"

    def list(self) -> list[Location]:
        """What the folder here holds, sorted by name; empty where there is no folder."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        try:
            found = self._persist(lambda: self.filesystem.get_file_info(selector))
        except NotADirectoryError:
            return []
        return [self / name for name in sorted(info.base_name for info in found)]

    def refuse_link(self, folder: str) -> None:
        """See that this is no symbolic link; object stores have none.

        Args:
            folder: What it lies in, for the message.

        Raises:
            DataError: It is one.
        """
        if self.local is not None and self.local.is_symlink():
            raise DataError(
                f"{self.name!r} in {folder} is a link.",
                where=str(self),
                cause="a link may lead to what does not belong there, or change under its reader",
                remedy="put the thing itself there: cp --dereference --recursive",
            )

    def find(self) -> Sequence[str]:
        """Paths of all files below the folder here, from it on; empty where there is no folder."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        found = self._persist(lambda: self.filesystem.get_file_info(selector))
        begin = len(self.path.rstrip("/")) + 1
        return sorted(info.path[begin:] for info in found if info.type == pafs.FileType.File)

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: No file is here.
        """

        def read() -> bytes:
            with stores.missing_named(), self.filesystem.open_input_stream(self.path) as stream:
                return bytes(stream.read())

        return self._persist(read)

    def open_ranges(self) -> Ranges:
        """The file, for reading parts of it from several threads.

        Raises:
            FileNotFoundError: No file is here.
        """
        if self.local is not None:
            return _LocalRanges(self.local)
        if isinstance(self.filesystem, pafs.PyFileSystem):
            return _WebRanges(self.path)
        return _StoreRanges(self.filesystem, self.path)

    def open_input(self) -> NativeFile:
        """The file as pyarrow's readers want it.

        Raises:
            FileNotFoundError: No file is here.
        """
        if self.local is not None:
            return self.filesystem.open_input_file(self.path)
        return PythonFile(_RangeFile(self.open_ranges(), self.size()), mode="r")

    def read_text(self) -> str:
        """The whole file as UTF-8."""
        return self.read_bytes().decode()

    def read_json(self) -> Any:
        """The whole file as JSON."""
        return json.loads(self.read_bytes())

    def write_bytes(self, data: bytes) -> None:
        """Replace the file here by `data`, whole or not at all; folders are made on the way."""
        self.write_parts((data,))

    def write_parts(self, parts: Sequence[bytes | memoryview]) -> None:
        """Replace the file here by these bytes in a row, as `write_bytes` does.

        They are not joined in memory, and other threads run while they are written.
        """
        if self.local is not None:
            _write_durably(self.local, parts)
            return

        def write() -> None:
            with self.filesystem.open_output_stream(self.path) as stream:
                for part in parts:
                    stream.write(part)

        self._persist(write)

    def write_text(self, text: str) -> None:
        """Replace the file here by UTF-8 text, whole or not at all."""
        self.write_bytes(text.encode())

    def write_json(self, value: Any) -> None:
        """Replace the file here by indented JSON, whole or not at all."""
        self.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def make_dir(self) -> Location:
        """Make the folder and those above it; returns self."""
        self._persist(lambda: self.filesystem.create_dir(self.path, recursive=True))
        return self

    def remove(self) -> None:
        """Remove the file or the folder and all below it; nothing happens where nothing is."""
        kind = self._info().type
        if kind == pafs.FileType.Directory:
            self._persist(lambda: self.filesystem.delete_dir(self.path))
        elif kind == pafs.FileType.File:
            self._persist(lambda: self.filesystem.delete_file(self.path))

    def move_to(self, target: Location) -> None:
        """Let the file or the folder be where `target` is; a store copies what is moved."""
        self._persist(lambda: self.filesystem.move(self.path, target.path))

    def _info(self) -> pafs.FileInfo:
        return self._persist(lambda: self.filesystem.get_file_info(self.path))

    def _persist(self, work: Callable[[], T]) -> T:
        """What `work` returns; where it goes over a network, tried for a while."""
        return work() if self.local is not None else stores.reach(work)


class Ranges(Protocol):
    """A file whose parts several threads may read at once."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        ...


class _LocalRanges:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset)
        while len(data) < size:  # a signal or a network disk may give less at once
            more = os.pread(self._file.fileno(), size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class _StoreRanges:
    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        self._file: NativeFile = stores.reach(lambda: filesystem.open_input_file(path))

    def read_at(self, offset: int, size: int) -> bytes:
        return stores.reach(lambda: bytes(self._file.read_at(size, offset)))


class _WebRanges:
    def __init__(self, url: str) -> None:
        from distgen.core.web import WebFile  # few need it, and all would wait for httpx

        self._file = WebFile(url)

    def read_at(self, offset: int, size: int) -> bytes:
        return stores.reach(lambda: self._file.read_at(offset, size))


class _RangeFile(io.RawIOBase):
    """A file with a place in it, made of ranges: each read is tried for a while by itself."""

    def __init__(self, ranges: Ranges, size: int) -> None:
        self._ranges = ranges
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._size - self._place)
        data = self._ranges.read_at(self._place, rest if size < 0 else min(size, rest))
        self._place += len(data)
        return data


def locate(url: str | os.PathLike[str]) -> Location:
    """The place that a path or URL (`s3://`, `gs://`, `https://`) names; nothing need be there.

    Raises:
        UsageError: The scheme is unknown or the URL is malformed.
    """
    text = os.fspath(url)
    if "://" not in text:
        path = os.path.abspath(os.path.expanduser(text))
        return Location(pafs.LocalFileSystem(), path, path)
    try:
        filesystem, path = stores.open_store(text)
        if not path:
            raise ValueError("it names no bucket")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{shielded(text)!r} does not name a place that can be read.",
            cause=shielded(str(error)),
            remedy="use a path, s3://bucket/path, gs://bucket/path or https://host/path",
        ) from error
    path = path.rstrip("/")
    if isinstance(filesystem, pafs.LocalFileSystem):
        return Location(filesystem, path, path)
    return Location(filesystem, path, text.rstrip("/"))


def sha256_of(*parts: bytes | memoryview) -> str:
    """The SHA-256 of these bytes in a row, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _write_durably(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with aside.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    # The rename itself must survive a power cut too.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
