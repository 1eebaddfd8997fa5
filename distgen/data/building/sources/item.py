"""What a source is made of: items, one for each picture, and their keys.

Items of folders come in the order of a hash of their keys. Every shard is then a random mix of all
classes, the order does not depend on the file system, and a picture that is added moves no other.
Where pictures lie in large files, this holds for runs of them: see `sources.runs`.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from distgen.core.spec import Mode
from distgen.data.building.clips import ClipContent
from distgen.data.building.convert import Header, RejectedError, read_header

MAX_FILE_BYTES = 1 << 30
_KEY_LENGTH = 64  # ustar headers hold 100 bytes of name


class Stored(Protocol):
    """A picture inside a file that holds many, in few bytes that say where it lies."""

    @property
    def version(self) -> str:
        """Which file it is, and how that was when the source was opened."""
        ...

    def load(self) -> bytes:
        """The encoded picture.

        Raises:
            RejectedError: There is none.
            DataError: The file cannot be read.
        """
        ...


@dataclass(frozen=True)
class Item:
    """One picture or clip: its key in the tar, its origin, label (-1: none) and content."""

    key: str
    origin: str
    label: int
    content: Path | np.ndarray | Stored | ClipContent
    refused: str = ""
    """Why its source already knows that it cannot be used; empty where it may be."""

    @property
    def path(self) -> Path:
        """The file that is its content."""
        assert isinstance(self.content, Path)  # noqa: S101 - what folders give are files
        return self.content

    def load(self) -> bytes | np.ndarray:
        """Encoded bytes or uint8 pixels [H, W] or [H, W, 3].

        Raises:
            RejectedError: The file cannot be read or is not meant to be a picture.
            DataError: A file that holds many pictures cannot be read.
        """
        if self.refused:
            raise RejectedError(self.refused)
        if isinstance(self.content, np.ndarray):
            return self.content
        if isinstance(self.content, ClipContent):
            raise TypeError("a clip is encoded frame by frame, not loaded")
        if not isinstance(self.content, Path):
            return self.content.load()
        try:
            _check_file(self.content)
            return self.content.read_bytes()
        except OSError as error:
            raise _unreadable(error) from error

    def header(self) -> Header:
        """Size and colour, read without decoding pixels.

        Raises:
            RejectedError: The header cannot be read or the file is not meant to be a picture.
            DataError: A file that holds many pictures cannot be read.
        """
        if self.refused:
            raise RejectedError(self.refused)
        if isinstance(self.content, np.ndarray):
            height, width = self.content.shape[:2]
            return Header(height, width, grey=self.content.ndim == 2)
        if isinstance(self.content, ClipContent):
            return self.content.header
        if not isinstance(self.content, Path):
            return read_header(self.content.load())
        try:
            _check_file(self.content)
        except OSError as error:
            raise _unreadable(error) from error
        return read_header(self.content)


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for whoever writes into it
        raise RejectedError("it is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise RejectedError(f"the file is larger than {MAX_FILE_BYTES} bytes")


def _unreadable(error: OSError) -> RejectedError:
    return RejectedError(f"the file cannot be read: {error.strerror}")


class Source(Protocol):
    """Pictures with labels, in one part or in splits of their own."""

    @property
    def name(self) -> str:
        """What the manifest calls the set."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; empty where there are no labels."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the source itself makes; empty where the builder may choose."""
        ...

    @property
    def default_split(self) -> float:
        """Share of the pictures that becomes `test` unless asked otherwise."""
        ...

    @property
    def default_size(self) -> tuple[int, int] | None:
        """Height and width unless asked otherwise; None: that of the pictures."""
        ...

    @property
    def default_mode(self) -> Mode | None:
        """Mode unless asked otherwise; None: that of the pictures."""
        ...

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The items of one of its splits, or all of them."""
        ...


@runtime_checkable
class ClipSource(Protocol):
    """A source whose items are clips already: nothing is left to cut."""

    @property
    def frames(self) -> int:
        """Frames of every clip."""
        ...


def hashed(purpose: str, text: str) -> int:
    """A 64-bit hash that never changes, of a text, for one purpose."""
    digest = hashlib.blake2b(
        text.encode(errors="surrogateescape"), digest_size=8, person=b"distgen"
    )
    digest.update(purpose.encode())
    return int.from_bytes(digest.digest(), "big")


def split_of(item: Item, test_share: float) -> str:
    """`test` for about `test_share` of all items, else `train`; a function of the key alone."""
    return "test" if hashed("split", item.key) < test_share * 2**64 else "train"


def sort_items(items: list[Item]) -> list[Item]:
    """Items in the order of a hash of their keys."""
    return sorted(items, key=lambda item: (hashed("order", item.key), item.key))


def key_of(relative: str) -> str:
    """A key without dots, safe in a tar header: what can be read of the path, and its hash."""
    return key_from(relative.rpartition(".")[0] or relative, relative)


def key_from(stem: str, name: str) -> str:
    """A key without dots, safe in a tar header: what can be read of `stem`, a hash of `name`."""
    safe = re.sub(r"[^A-Za-z0-9/_-]+", "_", stem)
    readable = safe.replace("/", "-").strip("-_")[-_KEY_LENGTH:]
    return f"{readable}-{hashed('key', name):016x}".lstrip("-")
