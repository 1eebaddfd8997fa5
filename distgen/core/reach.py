"""Whether a machine reaches what a run needs: its storage, and the pictures that it reads.

The machine that asks leaves a small file in the storage, and notes how the first bytes of the
shard set look. Every node then says what it sees at the same places: a path that names another
folder on each node is found that way, and a store whose credentials are missing on one of them.
"""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from distgen.core import stores
from distgen.core.errors import DistgenError
from distgen.core.finding import Finding, ok, problem
from distgen.core.retry import Patience, within
from distgen.core.storage import Location, locate, sha256_of

T = TypeVar("T")

HURRY = Patience(deadline_s=6.0, attempt_s=5.0)
"""With a store, while somebody waits for the first step."""
ANSWER_S = 20.0
"""Time for all of one place: a disk of another host that has gone away never answers."""
LATE_S = 2.0
"""Time in which what one node writes must be seen by the others."""
SHARE = "a folder that every node mounts, or s3:// or gs://"
_MARK = "from-the-driver"
_HEAD_BYTES = 2**16


@dataclass(frozen=True)
class Mark:
    """What the machine that asks has left in the storage, for the others to see."""

    folder: str
    """Path or URL of a folder in the storage that is there for a moment only."""
    word: str
    """What its file says."""

    @property
    def storage(self) -> Location:
        """The storage that was asked for."""
        return locate(self.folder).parent


@dataclass(frozen=True)
class Witness:
    """How the beginning of a file looks where it is known to be right."""

    place: str
    size: int
    head: str
    """Digest of its first 64 KiB."""


@contextmanager
def marked(storage: str) -> Iterator[Mark]:
    """A mark in the storage for as long as nodes look for it.

    On a disk nothing is left behind, and in a store at most an empty folder that was asked for.

    Raises:
        OSError: The storage cannot be written from here, or does not answer.
        UsageError: It is no place at all.
    """
    location = locate(storage)
    made = _folders_to_make(location.local)
    folder = location / f".distgen-{secrets.token_hex(6)}"
    word = secrets.token_hex(16)
    try:
        _in_time(lambda: (folder / _MARK).write_text(word))
        yield Mark(folder.url, word)
    finally:
        with contextlib.suppress(OSError):
            _in_time(folder.remove)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def unwritable(storage: str, error: Exception) -> Finding:
    """What it means that `marked` has failed."""
    return problem("storage", f"{storage} cannot be used: {_why(error)}", _cure(storage, error))


def storage(mark: Mark, name: str) -> Finding:
    """Whether this machine sees the mark, and can write, read and remove beside it.

    Args:
        mark: What was left in the storage.
        name: A file name that no other node uses.
    """
    place = mark.storage
    begin = time.perf_counter()
    try:
        seen = _in_time(lambda: _read_late(locate(mark.folder) / _MARK))
        if seen != mark.word:
            return problem(
                "storage",
                f"storage is not shared: {place} is another folder here than where the command "
                "was given",
                f"storage={SHARE}",
            )
        _in_time(lambda: _use(locate(mark.folder) / name))
    except (OSError, DistgenError) as error:
        return unwritable(str(place), error)
    took_ms = (time.perf_counter() - begin) * 1e3
    return ok("storage", f"{place} written, read and removed in {took_ms:,.0f} ms")


def witness(location: Location) -> Witness:
    """How a file looks from here.

    Raises:
        OSError: It cannot be read.
    """
    head = location.open_ranges().read_at(0, _HEAD_BYTES)
    return Witness(location.url, location.size(), sha256_of(head))


def shards(named: str, witnesses: Sequence[Witness]) -> Finding:
    """Whether this machine reads the same files as the one that asks.

    Args:
        named: The shard set, as its user knows it.
        witnesses: Some of its files.
    """
    begin = time.perf_counter()
    remedy = f"data.shards={SHARE}; or a copy at the same path on every node"
    for known in witnesses:
        location = locate(known.place)
        try:
            seen = _in_time(partial(witness, location))
        except FileNotFoundError:
            return problem("shards", f"{location} is not there", remedy)
        except (OSError, DistgenError) as error:
            cure = _cure(known.place, error)
            return problem("shards", f"{location} cannot be read: {_why(error)}", cure)
        if seen != known:
            text = f"{location} is another file here than where the command was given"
            return problem("shards", text, remedy)
    took_ms = (time.perf_counter() - begin) * 1e3
    return ok("shards", f"{named} read in {took_ms:,.0f} ms")


def _in_time(work: Callable[[], T]) -> T:
    def hurried() -> T:
        with stores.hurry(HURRY):
            return work()

    return within(hurried, ANSWER_S)


def _read_late(location: Location) -> str | None:
    """The text, or None where it does not appear: a network disk may show it a little later."""
    deadline = time.monotonic() + LATE_S
    while True:
        try:
            return location.read_text()
        except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
            if time.monotonic() > deadline:
                return None
        time.sleep(0.2)


def _use(location: Location) -> None:
    word = secrets.token_hex(16)
    location.write_text(word)
    if location.read_text() != word:
        raise OSError(errno.EIO, "what was written is not what is read back")
    location.remove()


def _folders_to_make(path: Path | None) -> list[Path]:
    """What writing below `path` would create, from it up."""
    if path is None:
        return []
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _why(error: Exception) -> str:
    text = " ".join(((isinstance(error, OSError) and error.strerror) or str(error)).split())
    # pyarrow says first what it did, and then in one word and one sentence what came of it.
    of_store = re.search(r"(AWS Error .*?|google::cloud::Status.*?)(?=; Details|$)", text)
    return (of_store[1] if of_store else text)[:200]


def _cure(place: str, error: Exception) -> str:
    location = locate(place)
    if location.local is None:
        return (
            "look at the node's way to the store, and at its credentials there: "
            f"{location.credentials}, as `ray start` found it"
        )
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"make room there: df -h {location.path}"
    if isinstance(error, TimeoutError):
        return "mount it again: its server does not answer"
    return f"let this user write there (ls -ld {location.path}), or another `storage`"
