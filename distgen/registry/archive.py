"""A bundle as one file: a plain tar, written with `tarfile` and read without it.

Reading takes nothing from the tar but names from a closed list, sizes that the manifest states, and
bytes that it vouches for; no path is ever made from a member's name.
"""

from __future__ import annotations

import io
import os
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from distgen.core.errors import DataError
from distgen.core.storage import Location, locate, sha256_of
from distgen.registry.bundle import BundleInfo
from distgen.registry.layout import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    OPTIONAL,
    REQUIRED,
    BundleManifest,
    parse_manifest,
    read_checked,
)

_BLOCK = tarfile.BLOCKSIZE
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)


def write_archive(info: BundleInfo, path: Path) -> None:
    """Write a bundle as a tar, whole or not at all; equal bundles give equal bytes.

    The manifest comes first, so that a reader knows how much to expect.

    Raises:
        DataError: A file of the bundle is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with aside.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                _add(archive, MANIFEST, (info.location / MANIFEST).read_bytes())
                for name in sorted(info.manifest.files):
                    _add(archive, name, read_checked(info.location, name, info.manifest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_archive(path: Path, folder: Location) -> None:
    """Read a bundle's files from a tar into `folder`, the manifest last.

    Raises:
        DataError: The file is no such tar: another kind, cut short, damaged, or with a member that
            a bundle does not have.
    """
    try:
        with path.open("rb") as file:
            _read(file, locate(path), folder)
    except OSError as error:
        raise _refused(locate(path), str(error)) from error


def _read(file: BinaryIO, place: Location, folder: Location) -> None:
    members = _members(file, place)
    name, size = next(members, ("", 0))
    if name != MANIFEST or size > MAX_MANIFEST_BYTES:
        raise _refused(place, f"it does not begin with {MANIFEST}")
    data = _content(file, size, place)
    manifest = parse_manifest(data, place / MANIFEST)
    left = set(manifest.files)
    for name, size in members:
        if name not in left:
            raise _refused(place, f"it holds {name!r}, which its manifest does not list once")
        left.remove(name)
        (folder / name).write_bytes(_vouched(file, name, size, manifest, place))
    if left:
        raise _refused(place, f"it lacks {', '.join(sorted(left))}")
    (folder / MANIFEST).write_bytes(data)


def _vouched(
    file: BinaryIO, name: str, size: int, manifest: BundleManifest, place: Location
) -> bytes:
    entry = manifest.files[name]
    if size != entry.bytes:
        raise _refused(place, f"{name} has {size:,} bytes, not {entry.bytes:,}")
    _require_bytes(file, size, place)
    content = _content(file, size, place)
    if sha256_of(content) != entry.sha256:
        raise _refused(place, f"{name} is damaged: its sha256 is not the manifest's")
    return content


def _require_bytes(file: BinaryIO, size: int, place: Location) -> None:
    """Refuse a size beyond the end of the file before memory is taken for it."""
    if os.fstat(file.fileno()).st_size - file.tell() < size:
        raise _refused(place, "it is cut short")


def _members(file: BinaryIO, place: Location) -> Iterator[tuple[str, int]]:
    """Name and size of each member; the caller reads its content before it asks for the next.

    Headers are parsed one block at a time: `tarfile`'s own reader follows extended headers, links
    and sparse maps, of which a bundle has none, and has been led astray by each.
    """
    known = {MANIFEST, *REQUIRED, *OPTIONAL}
    # One more than there can be, then the end.
    for _ in range(len(known) + 1):
        block = file.read(_BLOCK)
        if not block.strip(b"\0"):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise _refused(place, "it is not a plain tar, or it is damaged") from error
        if header.type not in _REGULAR or header.name not in known or header.size < 0:
            raise _refused(place, f"it holds {header.name!r}, which no bundle has")
        yield header.name, header.size
    raise _refused(place, "it holds more files than a bundle has")


def _content(file: BinaryIO, size: int, place: Location) -> bytes:
    content = file.read(size)
    padding = file.read(-size % _BLOCK)
    if len(content) != size or len(padding) != -size % _BLOCK:
        raise _refused(place, "it is cut short")
    return content


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(data))


def _refused(place: Location, cause: str) -> DataError:
    return DataError(
        "This file is not a model that distgen exported.",
        where=str(place),
        cause=cause,
        remedy="export it again: distgen models export MODEL FILE.tar",
    )
