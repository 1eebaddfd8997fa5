"""Where pictures come from: folders, IDX files and the built-in sets, as iterators of items.

Items come in the order of a hash of their keys. Every shard is then a random mix of all classes,
the order does not depend on the file system, and a picture that is added moves no other.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.core.spec import Mode
from distgen.core.storage import locate
from distgen.data.convert import SUFFIXES, Header, RejectedError, read_header
from distgen.data.index import SPLITS

MAX_FILE_BYTES = 1 << 30
_IDX_MAX_BYTES = 1 << 34
_IDX_UINT8 = 0x08
_KEY_LENGTH = 64  # ustar headers hold 100 bytes of name


@dataclass(frozen=True)
class Item:
    """One picture: its key in the tar, where it came from, its label (-1: none), its content."""

    key: str
    origin: str
    label: int
    content: Path | np.ndarray
    refused: str = ""
    """Why its source already knows that it cannot be used; empty where it may be."""

    def load(self) -> bytes | np.ndarray:
        """Encoded bytes or uint8 pixels [H, W] or [H, W, 3].

        Raises:
            RejectedError: The file cannot be read or is not meant to be a picture.
        """
        if self.refused:
            raise RejectedError(self.refused)
        if isinstance(self.content, np.ndarray):
            return self.content
        try:
            if self.content.stat().st_size > MAX_FILE_BYTES:
                raise RejectedError(f"the file is larger than {MAX_FILE_BYTES} bytes")
            return self.content.read_bytes()
        except OSError as error:
            raise RejectedError(f"the file cannot be read: {error.strerror}") from error

    def header(self) -> Header:
        """Size and colour, read without decoding pixels.

        Raises:
            RejectedError: The header cannot be read or the file is not meant to be a picture.
        """
        if self.refused:
            raise RejectedError(self.refused)
        if isinstance(self.content, np.ndarray):
            height, width = self.content.shape[:2]
            return Header(height, width, grey=self.content.ndim == 2)
        return read_header(self.content)


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


def open_source(source: str) -> Source:
    """What a user names as SRC: `digits`, `fashion-mnist`, a folder of IDX files or of pictures.

    Raises:
        UsageError: There is nothing of that name, or nothing usable in it.
    """
    # Its sources are defined in terms of this module's.
    from distgen.data.builtin import BUILTIN

    if source in BUILTIN:
        return BUILTIN[source]()
    place = locate(source)
    if place.local is None:
        raise UsageError(
            f"Pictures are read from this machine's disk, not from {source!r}.",
            remedy="copy the folder here first; the shard set may then go to a URL",
        )
    path = place.local
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        near = did_you_mean(source, BUILTIN)
        raise UsageError(
            f"The source {source!r} {what}.",
            remedy=f"give a folder of pictures or of IDX files, or a built-in set; {near}",
        )
    if find_idx(path):
        return IdxSource(path)
    return FolderSource(path)


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


class FolderSource:
    """A folder: a class is a first-level subfolder, however deep below it its pictures lie.

    A folder without subfolders has no labels. Where all subfolders are named like splits (`train`,
    `test`, `val`), each is a folder of that kind. Hidden files and folders are left alone, links
    are followed, class names are sorted naturally (2 before 10).

    Raises:
        UsageError: There is no file in the folder.
    """

    default_size = None
    default_mode = None
    default_split = 0.0

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name
        self._path = path
        children = [child.name for child in path.iterdir() if _visible(child) and child.is_dir()]
        self.splits = tuple(s for s in SPLITS if s in children)
        if set(children) != set(self.splits) or "train" not in children:
            self.splits = ()
        roots = [path / split for split in self.splits] or [path]
        self._files = {root: list(_walk(root)) for root in roots}
        files = [(root, file) for root, found in self._files.items() for file in found]
        names = {_class_of(root, file) for root, file in files} - {None}
        self.classes = tuple(sorted((n for n in names if n is not None), key=_natural))
        if not files:
            raise UsageError(
                f"There is no file in {str(path)!r}.",
                remedy="give a folder whose subfolders are classes and hold pictures",
            )

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The files of one split, or of the folder."""
        root = self._path / split if split else self._path
        labels = {name: label for label, name in enumerate(self.classes)}
        items = []
        for file in self._files[root]:
            label = labels.get(_class_of(root, file) or "", -1)
            key = _key_of(file.relative_to(root).as_posix())
            items.append(Item(key, str(file), label, file, _refusal(file, label, labels)))
        return sort_items(items)


class IdxSource:
    """A folder with the four IDX files of an MNIST-like set, plain or gzipped.

    Raises:
        DataError: A file is not in the IDX format, or pictures and labels do not match.
    """

    default_size = None
    default_split = 0.0

    def __init__(self, path: Path, classes: tuple[str, ...] = ()) -> None:
        self.name = path.resolve().name
        files = find_idx(path)
        self.splits: tuple[str, ...] = tuple(split for split in ("train", "test") if split in files)
        self._data = {split: _read_pair(*pair) for split, pair in files.items()}
        pictures = [pair[0] for pair in self._data.values()]
        self.default_mode: Mode | None = "RGB" if pictures[0].ndim == 4 else "L"
        count = 1 + max(int(labels.max()) for _, labels in self._data.values())
        self.classes = classes or tuple(str(number) for number in range(count))

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The pictures of one split, `train` or `test`."""
        pictures, labels = self._data[split or "train"]
        return sort_items(
            [
                Item(f"{split}-{row:06d}", f"{split}[{row}]", int(label), pictures[row])
                for row, label in enumerate(labels)
            ]
        )


def find_idx(path: Path) -> dict[str, tuple[Path, Path]]:
    """Pictures and labels of the splits that lie as IDX files in a folder."""
    found: dict[str, tuple[Path, Path]] = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pair = []
        for kind in ("images.idx3", "labels.idx1"):
            stems = (f"{prefix}-{kind}-ubyte", f"{prefix}-{kind}-ubyte".replace(".", "-"))
            names = [stem + suffix for stem in stems for suffix in ("", ".gz")]
            pair += [path / name for name in names if (path / name).is_file()][:1]
        if len(pair) == 2:
            found[split] = (pair[0], pair[1])
    return found


def read_idx(data: bytes, where: str) -> np.ndarray:
    """The array in an IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist/).

    Raises:
        DataError: The header or the length is wrong.
    """
    dimensions = data[3] if len(data) >= 4 else 0
    header = 4 + 4 * dimensions
    if data[:3] != bytes((0, 0, _IDX_UINT8)) or dimensions < 1 or len(data) < header:
        raise DataError("This is not an IDX file of unsigned bytes.", where=where)
    shape = tuple(np.frombuffer(data[4:header], ">u4").tolist())
    if len(data) - header != int(np.prod(shape, dtype=object)):
        raise DataError(
            "This IDX file is cut short or too long.",
            where=where,
            cause=f"its header promises {shape}, which {len(data) - header} bytes do not make",
            remedy="fetch the file again",
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_maybe_gzipped(path: Path) -> bytes:
    """The content of a file, inflated where its name ends in .gz.

    Raises:
        DataError: It is not what its name says, or is absurdly large.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            data = file.read(_IDX_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            "This file is not sound gzip.", where=str(path), cause=str(error)
        ) from error
    if len(data) > _IDX_MAX_BYTES:
        raise DataError(f"This file inflates to more than {_IDX_MAX_BYTES} bytes.", where=str(path))
    return data


def _read_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    pictures = read_idx(read_maybe_gzipped(images), str(images))
    numbers = read_idx(read_maybe_gzipped(labels), str(labels))
    if numbers.ndim != 1 or pictures.ndim not in (3, 4) or len(numbers) != len(pictures):
        raise DataError(
            "These IDX files do not belong together.",
            where=str(images),
            cause=f"pictures {pictures.shape}, labels {numbers.shape}",
        )
    if not len(numbers):
        raise DataError("This IDX file holds no pictures.", where=str(images))
    return pictures, numbers


def sort_items(items: list[Item]) -> list[Item]:
    """Items in the order of a hash of their keys."""
    return sorted(items, key=lambda item: (hashed("order", item.key), item.key))


def _walk(root: Path) -> Iterator[Path]:
    """All visible files below a folder, each folder once, however links run."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _class_of(root: Path, file: Path) -> str | None:
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _refusal(file: Path, label: int, labels: dict[str, int]) -> str:
    if file.suffix.lower() not in SUFFIXES:
        return f"a name that ends in {file.suffix!r} is not that of a picture"
    if labels and label < 0:
        return "it lies outside the class folders"
    return ""


def _natural(name: str) -> tuple[object, ...]:
    parts = re.split(r"(\d+)", name.casefold())
    return (tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts), name)


def _key_of(relative: str) -> str:
    """A key without dots, safe in a tar header: what can be read of the path, and its hash."""
    stem = re.sub(r"[^A-Za-z0-9/_-]+", "_", relative.rpartition(".")[0] or relative)
    readable = stem.replace("/", "-").strip("-_")[-_KEY_LENGTH:]
    return f"{readable}-{hashed('key', relative):016x}".lstrip("-")
