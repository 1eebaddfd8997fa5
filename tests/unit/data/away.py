"""Sets that look like those in a store, and what a cache on disk keeps of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs

from distgen.core.storage import Location, Ranges
from distgen.data import Stream
from distgen.data.index import ShardSet
from distgen.data.keeping.disk import DiskCache
from distgen.data.keeping.page_folder import PageFolder

from .conftest import Made

PAGE = 4096
FAR = 1 << 40


@dataclass(frozen=True)
class Away(Location):
    """A folder of this disk that looks like one in a store, and notes what is read of its tars."""

    reads: list[tuple[str, int]] = field(default_factory=list)

    def __truediv__(self, name: str) -> Away:
        there = super().__truediv__(name)
        return Away(there.filesystem, there.path, there.url, self.reads)

    def open_ranges(self) -> Ranges:
        return Noted(super().open_ranges(), self)


class Noted:
    def __init__(self, ranges: Ranges, place: Away) -> None:
        self._ranges = ranges
        self._place = place

    def read_at(self, offset: int, size: int) -> bytes:
        self._place.reads.append((self._place.name, offset))
        return self._ranges.read_at(offset, size)


def away(made: Made) -> ShardSet:
    store = fs.SubTreeFileSystem(str(made.folder.parent), fs.LocalFileSystem())
    place = Away(store, made.folder.name, f"mock://{made.folder.name}")
    return ShardSet(place, made.shard_set.manifest)


def reads(shard_set: ShardSet) -> list[tuple[str, int]]:
    assert isinstance(shard_set.location, Away)
    return shard_set.location.reads


def epochs(made: Made, shard_set: ShardSet, folder: Path, count: int = 1, **options: Any) -> None:
    """Read whole epochs, and compare every picture."""
    options = {
        "cache": "disk",
        "cache_dir": str(folder),
        "lanes": 4,
        "shuffle_window": 20,
    } | options
    with Stream(shard_set, batch_size=10, epochs=count, **options) as stream:
        for batch in stream:
            assert np.array_equal(batch.images_nhwc, made.images_nhwc[batch.indices_n])


def files(folder: Path) -> list[Path]:
    """Pages, and what is to become one."""
    return sorted(path for path in (folder / "pages").glob("*/*/*") if path.is_file())


def taken(folder: Path) -> int:
    """Bytes of the disk that they take, in whole blocks."""
    total = 0
    for path in (folder / "pages").glob("*/*/*"):
        try:
            total += -(-path.lstat().st_size // 4096) * 4096
        except FileNotFoundError:
            continue
    return total


def said(folder: Path) -> int:
    """Bytes that are accounted for."""
    return int((folder / "pages" / "lock").read_text())


def opened(folder: Path, limit: int = FAR) -> DiskCache:
    return DiskCache(PageFolder(folder / "pages", limit))
