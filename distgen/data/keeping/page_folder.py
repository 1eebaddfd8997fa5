"""A folder of pages on a disk, its limit, and whose pages go when room is needed.

    lock                       bytes of all pages; who changes what is there holds its lock
    <set>/use                  locked by all who read the set; its time is the last use
    <set>/<group>/<page>       a part of a shard, as it is in the store
    <set>/<group>/<page>.part  the same on its way, locked by who fetches it

The number in `lock` is never less than what is there: it grows before a file does and shrinks
after. A process that was killed may leave it too large, until somebody comes who finds nobody else
at work and counts anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

KEEP_FREE_BYTES = 1 << 30
"""What a disk has to have left after a page is kept."""

_LOCK_WAIT_S = 30.0
_LONGEST_PAUSE_S = 0.02
_BLOCK = 4096
_SET_NAME = re.compile(r"[0-9a-f]{32}-[0-9]+")
_GROUP_NAME = re.compile(r"[0-9]+")
_FILE_NAME = re.compile(r"[0-9]+(\.part)?")


class PageFolder:
    """Pages of several sets, which the processes of one user on one host share. Thread-safe.

    Args:
        path: The folder; it is made with mode 0700.
        limit_bytes: What all pages in it may take together, in blocks of the disk.

    Raises:
        OSError: The folder cannot be used.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self._limit = limit_bytes
        self._uses: dict[str, int] = {}
        self._guard = threading.Lock()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_ours(path)
        self._lock = open_file(path / "lock")
        try:
            with self._locked():
                sets = self._sets()
                if all(self._is_unused(each) for each in sets):
                    # Nobody is at work: what is there can be counted, and leftovers removed.
                    self._set_total(sum(_sweep(each) for each in sets))
        except OSError:
            os.close(self._lock)
            raise
        self._leave = weakref.finalize(self, _leave, os.getpid(), self._lock, self._uses)

    def enter(self, name: str) -> Path:
        """The folder of a set, whose pages stay until `close`.

        Raises:
            OSError: The folder cannot be used.
        """
        place = self.path / name
        with self._locked():
            if name not in self._uses:
                _make_ours(place)
                use = open_file(place / "use")
                # Only who holds the lock of the whole folder takes this one for itself.
                fcntl.flock(use, fcntl.LOCK_SH)
                os.utime(use)
                self._uses[name] = use
            # The limit may have been higher before.
            self._free(self._total() - self._limit, self._unused)
            self._free(self._total() - self._limit, self._ours)
        return place

    def grow(self, part: int, size: int) -> bool:
        """Make an open file `size` bytes long; False where the limit does not let it.

        Pages of sets that nobody reads make room, those of the set used longest ago first.

        Raises:
            OSError: The disk itself is full, or the folder is gone.
        """
        with self._locked():
            more = _cost(size) - _cost(os.fstat(part).st_size)
            lack = max(self._total() + more - self._limit, self._disk_lacks(more))
            self._free(lack, self._unused)
            if self._disk_lacks(more) > 0:
                raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
            if self._total() + more > self._limit:
                return False
            self._set_total(self._total() + more)
            try:
                os.ftruncate(part, size)
            except OSError:
                self._set_total(self._total() - more)
                raise
            return True

    def remove(self, place: Path) -> None:
        """Remove a page, or what was to become one."""
        with self._locked():
            self._remove(place)

    def close(self) -> None:
        """Let others take away what was entered."""
        self._leave()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else changes what is in the folder meanwhile."""
        if not self._guard.acquire(timeout=_LOCK_WAIT_S):
            raise TimeoutError(f"{self.path}: another thread keeps it locked")
        try:
            if not lock_within(self._lock, _LOCK_WAIT_S):
                raise TimeoutError(f"{self.path}: another process keeps it locked")
            try:
                if not is_at(self.path / "lock", self._lock):
                    raise FileNotFoundError(errno.ENOENT, "It was removed", str(self.path))
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        finally:
            self._guard.release()

    def _total(self) -> int:
        text = os.pread(self._lock, 32, 0)
        # Empty or torn by a power cut: full until it is counted.
        return int(text) if text.strip().isdigit() else self._limit

    def _set_total(self, total: int) -> None:
        os.pwrite(self._lock, f"{max(0, total):<20}\n".encode(), 0)

    def _disk_lacks(self, more: int) -> int:
        disk = os.statvfs(self.path)
        return more + KEEP_FREE_BYTES - disk.f_bavail * disk.f_frsize

    def _free(self, lack: int, spare: Callable[[], Generator[Path]]) -> None:
        if lack <= 0:
            return
        with closing(spare()) as places:
            for place in places:
                lack -= self._remove(place)
                if lack <= 0:
                    return

    def _remove(self, place: Path) -> int:
        try:
            cost = _cost(place.lstat().st_size)
            place.unlink()
        except FileNotFoundError:
            return 0
        self._set_total(self._total() - cost)
        return cost

    def _sets(self) -> list[Path]:
        """Folders of sets; whatever else somebody has put here is not touched."""
        names = [each.name for each in self.path.iterdir() if _SET_NAME.fullmatch(each.name)]
        return [self.path / name for name in sorted(names) if _is_ours(self.path / name)]

    def _is_unused(self, place: Path) -> bool:
        use = open_file(place / "use")
        try:
            return lock_within(use, 0)
        finally:
            release(use)

    def _unused(self) -> Generator[Path]:
        """Files of sets that nobody reads, those of the set used longest ago first."""
        for place in sorted(self._sets(), key=_last_use):
            use = open_file(place / "use")
            try:
                if not lock_within(use, 0):
                    continue
                yield from _files(place)
                with suppress(OSError):  # something else lies there
                    for group in place.iterdir():
                        if _GROUP_NAME.fullmatch(group.name):
                            group.rmdir()
                    (place / "use").unlink()
                    place.rmdir()
            finally:
                release(use)

    def _ours(self) -> Generator[Path]:
        """Pages of the sets that were entered."""
        for name in self._uses:
            yield from (file for file in _files(self.path / name) if not file.suffix)


def open_file(place: Path) -> int:
    """Open a file of this user alone, which is made where there is none.

    Raises:
        OSError: It cannot be opened, or is a link.
    """
    return os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def lock_within(fd: int, wait_s: float) -> bool:
    """Whether the file could be locked in this time; the kernel unlocks it with its holder's end.

    Raises:
        OSError: The file system has no locks.
    """
    until = time.monotonic() + wait_s
    pause_s = 0.0005
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() + pause_s > until:
                return False
        else:
            return True
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def release(fd: int) -> None:
    """Unlock and close; a child that was forked meanwhile must not keep the lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def is_at(place: Path, fd: int) -> bool:
    """Whether the open file still has this name."""
    try:
        there, here = place.lstat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _leave(pid: int, lock: int, uses: dict[str, int]) -> None:
    if os.getpid() != pid:  # a fork: to unlock would unlock its parent's
        return
    for use in uses.values():
        with suppress(OSError):
            os.utime(use)
        release(use)
    os.close(lock)


def _make_ours(place: Path) -> None:
    place.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(place):
        raise PermissionError(errno.EPERM, "It belongs to somebody else", str(place))


def _is_ours(place: Path) -> bool:
    found = place.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _last_use(place: Path) -> float:
    try:
        return (place / "use").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sweep(place: Path) -> int:
    """What the pages of a set cost, after what never became one was removed."""
    total = 0
    for file in _files(place):
        if file.suffix:
            file.unlink()
        else:
            total += _cost(file.lstat().st_size)
    return total


def _files(place: Path) -> Iterator[Path]:
    """Pages and parts of a set; whatever else lies there is not touched."""
    for group in place.iterdir():
        if _GROUP_NAME.fullmatch(group.name):
            yield from (file for file in group.iterdir() if _FILE_NAME.fullmatch(file.name))


def _cost(size: int) -> int:
    """What a file takes of the disk, in bytes."""
    return -(-size // _BLOCK) * _BLOCK
