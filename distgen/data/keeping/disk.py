"""Pages of remote shards on this host's disk, so that later epochs and runs need not fetch them.

A set is named by its fingerprint, which is of its shards' SHA-256: a shard that was replaced makes
another set, and the same set in two places is one. Pages carry no checksum of their own. Every
sample has one in the index, so whatever a power cut or a disk did to a page is noticed where its
samples are read, and the page is fetched again; nothing is synced.

What came first stays, until nobody reads its set any more. No rule has more hits where a host
reads its whole set in every epoch, whatever the order: a page that is fetched in one epoch and
found in the next is there when the second begins, so hits in an epoch are never more than the
pages that have room, and with this rule each of them is one. Least recently used and first in,
first out are far worse, since what was read last comes last. Where several hosts share the lanes, a
host reads other pages in each epoch, and finds of them the share of the set that its disk holds.

Locks are those of `flock`. On NFS they hold between hosts where the server manages locks, and the
limit is then that of all hosts together; where it does not, nothing is kept. A folder on a disk of
the host itself is what is meant.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distgen.data.index import ShardSet
from distgen.data.keeping.page_folder import PageFolder, is_at, lock_within, open_file, release
from distgen.data.streaming import pages

DISK_GIB = 64.0

# Longer than anybody needs to fetch a page from a store that answers: who is silent for so long has
# been stopped, and is waited for no longer.
_PAGE_WAIT_S = 60.0
# A full cache is not asked for room at every page.
_FULL_S = 10.0
_GROUP = 1000

_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/distgen`, or `~/.cache/distgen`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distgen"


def open_disk(folder: str | None, limit_gib: float) -> DiskCache | None:
    """The cache in a folder, or None, after a warning, where it cannot be used.

    Args:
        folder: Where; None: `default_folder()`.
        limit_gib: What pages may take there, in GiB, over all sets and processes.
    """
    place = default_folder() if folder is None else Path(folder).expanduser()
    try:
        return DiskCache(PageFolder(place / "pages", int(limit_gib * (1 << 30))))
    except OSError as error:
        _log.warning("Nothing is kept on the disk, because %s cannot be used: %s", place, error)
        return None


class DiskCache:
    """Pages in a folder that all processes of a host share. Thread-safe.

    Losing it costs time and nothing else: where the disk is full or refuses, one warning is given
    and nothing more is written; what is there is still read.
    """

    def __init__(self, folder: PageFolder) -> None:
        self._folder = folder
        self._frozen = False
        self._full_until = 0.0
        self._warn = threading.Lock()

    def of(self, shard_set: ShardSet) -> KeptPages | None:
        """The pages of a set, which stay while this cache is open; None where the disk refuses."""
        with self._no_error():
            name = f"{shard_set.fingerprint[:32]}-{pages.PAGE_BYTES}"
            return KeptPages(self, self._folder.enter(name), shard_set)
        return None

    def fetch(self, place: Path, size: int, download: Callable[[], bytes]) -> bytes:
        """A page of `size` bytes, from the disk, or downloaded and kept.

        Processes that want the same page wait for the one that downloads it.

        Raises:
            Whatever the download raised.
        """
        data = self._read(place, size)
        if data is not None:
            return data
        part = None
        if size and not self._frozen and time.monotonic() >= self._full_until:
            with self._no_error():
                part = self._claim(place)
        if part is None:
            data = self._read(place, size)
            return download() if data is None else data
        try:
            data = download()
            with self._no_error():
                self._keep(part, place, data)
            return data
        finally:
            with self._no_error():
                self._let_go(part, place)

    def drop(self, place: Path) -> None:
        """Remove a page whose bytes are wrong."""
        with self._no_error():
            self._folder.remove(place)
            self._full_until = 0.0

    def close(self) -> None:
        """Let others take away the pages of what was read."""
        self._folder.close()

    @contextmanager
    def _no_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with self._warn:
                if not self._frozen:
                    self._frozen = True
                    _log.warning(
                        "No further pages are kept on the disk, in %s: %s", self._folder.path, error
                    )

    def _read(self, place: Path, size: int) -> bytes | None:
        try:
            with place.open("rb", buffering=0) as file:
                found = os.fstat(file.fileno()).st_size
                if found == size:
                    return file.read(size)
        except OSError:
            return None
        self.drop(place)  # the disk has lost power
        return None

    def _claim(self, place: Path) -> int | None:
        """What the page will be written to, locked; None where it has come or its holder hangs."""
        until = time.monotonic() + _PAGE_WAIT_S
        while True:
            place.parent.mkdir(mode=0o700, exist_ok=True)
            part = open_file(_part(place))
            if not _locked(part, until - time.monotonic()):
                return None
            ours = is_at(_part(place), part)
            if ours and not place.exists():
                return part
            # Who had it has finished or given up, while we waited or before we opened.
            self._let_go(part, place)
            if place.exists():
                return None

    def _keep(self, part: int, place: Path, data: bytes) -> None:
        if not self._folder.grow(part, len(data)):
            self._full_until = time.monotonic() + _FULL_S
            return
        written = 0
        while written < len(data):
            written += os.pwrite(part, memoryview(data)[written:], written)
        _part(place).rename(place)

    def _let_go(self, part: int, place: Path) -> None:
        """Unlock what was claimed, and remove it unless it has become a page."""
        try:
            if is_at(_part(place), part):
                self._folder.remove(_part(place))
        finally:
            release(part)


class KeptPages:
    """The pages of one set on the disk."""

    def __init__(self, cache: DiskCache, place: Path, shard_set: ShardSet) -> None:
        self._cache = cache
        self._place = place
        self._first_pages = [0]
        for shard in shard_set.manifest.shards:
            self._first_pages.append(self._first_pages[-1] + -(-shard.bytes // pages.PAGE_BYTES))

    def fetch(self, shard: int, start: int, stop: int, download: pages.Fetch) -> bytes:
        """The page of a shard from `start` to `stop`.

        Raises:
            Whatever the download raised.
        """
        place = self._at(shard, start)
        return self._cache.fetch(place, stop - start, lambda: download(shard, start, stop))

    def drop(self, shard: int, start: int) -> None:
        """Remove the page that begins at `start`, because its bytes are wrong."""
        self._cache.drop(self._at(shard, start))

    def _at(self, shard: int, start: int) -> Path:
        number = self._first_pages[shard] + start // pages.PAGE_BYTES
        return self._place / str(number // _GROUP) / str(number)


def _locked(part: int, wait_s: float) -> bool:
    """Whether it could be locked; it is closed where it could not."""
    locked = False
    try:
        locked = lock_within(part, wait_s)
    finally:
        if not locked:
            os.close(part)
    return locked


def _part(place: Path) -> Path:
    return place.with_name(f"{place.name}.part")
