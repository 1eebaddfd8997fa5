"""Arrays that take long to compute and never change: in memory, and on this machine's disk."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from distgen.core.storage import Location, locate, sha256_of

DISK_LIMIT_BYTES = 4 << 30
_MEMORY_ENTRIES = 8
_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/distgen/features`, or the same below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "distgen" / "features"


class ArrayCache:
    """Arrays by key. Losing any of them costs time and nothing else, so no failure is an error.

    Each file is the SHA-256 of an `.npy` file, then that file: a file that was cut short or changed
    counts as absent and is written anew. The least recently used files go when the folder outgrows
    its limit.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = DISK_LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._memory: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, key: str) -> np.ndarray | None:
        """The array under `key`, or None."""
        array = self._memory.get(key)
        if array is None:
            array = self._read(self._place(key))
        if array is not None:
            self._remember(key, array)
        return array

    def put(self, key: str, array: np.ndarray) -> None:
        """Keep an array; where the disk refuses, in memory alone."""
        self._remember(key, array)
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        payload = buffer.getvalue()
        try:
            self._place(key).write_bytes(hashlib.sha256(payload).digest() + payload)
            self._prune()
        except OSError:
            return

    def _remember(self, key: str, array: np.ndarray) -> None:
        self._memory[key] = array
        self._memory.move_to_end(key)
        while len(self._memory) > _MEMORY_ENTRIES:
            self._memory.popitem(last=False)

    def _place(self, key: str) -> Location:
        # The folder is looked up late: tests and tools change the environment.
        return locate(self._folder or cache_folder()) / f"{sha256_of(key.encode())}.bin"

    def _read(self, place: Location) -> np.ndarray | None:
        try:
            data = place.read_bytes()
            payload = data[_DIGEST_BYTES:]
            if hashlib.sha256(payload).digest() != data[:_DIGEST_BYTES]:
                return None
            array: np.ndarray = np.load(io.BytesIO(payload), allow_pickle=False)
            os.utime(place.path)
        except (OSError, ValueError):
            return None
        return array

    def _prune(self) -> None:
        folder = self._folder or cache_folder()
        files = [(file.stat(), file) for file in folder.glob("*.bin")]
        total = sum(status.st_size for status, _ in files)
        for status, file in sorted(files, key=lambda item: item[0].st_mtime):
            if total <= self._limit_bytes:
                return
            file.unlink(missing_ok=True)
            total -= status.st_size


CACHE = ArrayCache()
"""The cache of this process."""
