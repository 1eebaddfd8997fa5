"""One way to name, read and write bytes, on a disk or in an object store (`pyarrow.fs`)."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from distgen.core.errors import UsageError


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

    def is_file(self) -> bool:
        """Whether a file is here."""
        return bool(self.filesystem.get_file_info(self.path).type == pafs.FileType.File)

    def is_dir(self) -> bool:
        """Whether a folder (or, in an object store, anything below this prefix) is here."""
        return bool(self.filesystem.get_file_info(self.path).type == pafs.FileType.Directory)

    def size(self) -> int:
        """Bytes of the file here.

        Raises:
            FileNotFoundError: No file is here.
        """
        info = self.filesystem.get_file_info(self.path)
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(self.url)
        return int(info.size)

    def list(self) -> list[Location]:
        """What the folder here holds, sorted by name; empty where there is no folder."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except NotADirectoryError:
            return []
        return [self / name for name in sorted(info.base_name for info in found)]

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: No file is here.
        """
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def read_text(self) -> str:
        """The whole file as UTF-8."""
        return self.read_bytes().decode()

    def read_json(self) -> Any:
        """The whole file as JSON."""
        return json.loads(self.read_bytes())

    def write_bytes(self, data: bytes) -> None:
        """Replace the file here by `data`, whole or not at all; folders are made on the way."""
        if self.local is not None:
            _write_durably(self.local, data)
            return
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(data)

    def write_text(self, text: str) -> None:
        """Replace the file here by UTF-8 text, whole or not at all."""
        self.write_bytes(text.encode())

    def write_json(self, value: Any) -> None:
        """Replace the file here by indented JSON, whole or not at all."""
        self.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def make_dir(self) -> Location:
        """Make the folder and those above it; returns self."""
        self.filesystem.create_dir(self.path, recursive=True)
        return self

    def remove(self) -> None:
        """Remove the file or the folder and all below it; nothing happens where nothing is."""
        kind = self.filesystem.get_file_info(self.path).type
        if kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(self.path)
        elif kind == pafs.FileType.File:
            self.filesystem.delete_file(self.path)


def locate(url: str | os.PathLike[str]) -> Location:
    """The place that a path or URL (`file://`, `s3://`, `gs://`) names; nothing need be there.

    Raises:
        UsageError: The scheme is unknown or the URL is malformed.
    """
    text = os.fspath(url)
    if "://" not in text:
        path = os.path.abspath(os.path.expanduser(text))
        return Location(pafs.LocalFileSystem(), path, path)
    try:
        filesystem, path = pafs.FileSystem.from_uri(text)
        if not path:
            raise ValueError("it names no bucket")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{text!r} does not name a place that can be read.",
            cause=str(error),
            remedy="use a path, s3://bucket/path or gs://bucket/path",
        ) from error
    path = path.rstrip("/")
    if isinstance(filesystem, pafs.LocalFileSystem):
        return Location(filesystem, path, path)
    return Location(filesystem, path, text.rstrip("/"))


def sha256_of(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _write_durably(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
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
