"""Memory that the processes of one host share by name, and that ends with the last of them.

The memory is a file without a name (`memfd_create`), so that the kernel frees it with the last
process that holds it, however that process ended, and the size of `/dev/shm`, which is 64 MiB in
many containers, does not bound it. Who wants to join finds the holders in a small list and opens
the file through one of them (`/proc/<pid>/fd`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

FOLDER = Path("/dev/shm")  # noqa: S108 - seen by this host only, and gone when it starts anew
"""Where the lists of holders are."""


class _Holder(NamedTuple):
    pid: int
    fd: int
    inode: int

    def open(self) -> int | None:
        """The memory, through its holder; None where the holder or its memory is gone."""
        try:
            fd = os.open(f"/proc/{self.pid}/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        found = os.fstat(fd)
        # Another process may have got the number since, and another file the descriptor.
        if (found.st_ino, found.st_nlink, found.st_uid) == (self.inode, 0, os.getuid()):
            return fd
        os.close(fd)
        return None


class SharedMemory:
    """Zeros at first; what one process writes, all see.

    Args:
        name: Processes of this user that name the same, with the same size, share.
        size: Bytes. They are taken at once, so that no later write can fail.

    Raises:
        OSError: There is no room; nothing was taken.
    """

    def __init__(self, name: str, size: int) -> None:
        place = FOLDER / f"distgen-{os.getuid()}-{name}-{size}"
        with _locked(place) as roll:
            alive = [(holder, fd) for holder in _read(roll) if (fd := holder.open()) is not None]
            for _, spare in alive[1:]:
                os.close(spare)
            try:
                fd = alive[0][1] if alive else _allocate(size)
                self.bytes = _map(fd, size)
            except OSError:
                if not alive:
                    place.unlink()
                raise
            us = _Holder(os.getpid(), fd, os.fstat(fd).st_ino)
            _write(roll, [*(holder for holder, _ in alive), us])
        self.joined = bool(alive)
        """Whether another holder was there before."""
        self._leave = weakref.finalize(self, _leave, place, us)

    def close(self) -> None:
        """Let others no longer join through us; the bytes stay while something refers to them."""
        self._leave()


def _allocate(size: int) -> int:
    free = psutil.virtual_memory().available
    if size > free:
        raise OSError(f"{size >> 20:,} MiB are wanted, and {free >> 20:,} MiB are free")
    fd = os.memfd_create("distgen", os.MFD_CLOEXEC)
    try:
        # Without it memory that runs out would end us by a bus error at some later write.
        os.posix_fallocate(fd, 0, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def _map(fd: int, size: int) -> mmap.mmap:
    try:
        # The pages are there; entering them now spares a fault for each in every later copy.
        return mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError:
        os.close(fd)
        raise


def _leave(place: Path, us: _Holder) -> None:
    if os.getpid() != us.pid:  # a fork: its parent still holds
        return
    with suppress(OSError), _locked(place) as roll:
        os.close(us.fd)
        others = [holder for holder in _read(roll) if holder != us]
        alive = []
        for holder in others:
            fd = holder.open()
            if fd is not None:
                os.close(fd)
                alive.append(holder)
        _write(roll, alive)
        if not alive:
            place.unlink()


@contextmanager
def _locked(place: Path) -> Iterator[int]:
    """The list of holders, which nobody else reads or writes meanwhile."""
    while True:
        fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(fd)
            if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode):
                raise PermissionError(f"{place} belongs to somebody else")
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # else the last holder has removed it while we waited
                yield fd
                return
        finally:
            os.close(fd)


def _read(roll: int) -> list[_Holder]:
    lines = os.pread(roll, 1 << 20, 0).decode("ascii", "replace").splitlines()
    rows = [line.split() for line in lines]
    # A process that was killed while it wrote may have left half a line.
    numbers = [row for row in rows if len(row) == 3 and all(part.isdigit() for part in row)]
    return [_Holder(*(int(part) for part in row)) for row in numbers]


def _write(roll: int, holders: list[_Holder]) -> None:
    text = "".join(f"{holder.pid} {holder.fd} {holder.inode}\n" for holder in holders)
    os.ftruncate(roll, 0)
    os.pwrite(roll, text.encode(), 0)
