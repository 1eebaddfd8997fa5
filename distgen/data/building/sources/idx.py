"""Pictures and labels in IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distgen.core.errors import DataError
from distgen.core.spec import Mode
from distgen.data.building.sources.item import Item, sort_items

_MAX_BYTES = 1 << 34
_UINT8 = 0x08


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
    if data[:3] != bytes((0, 0, _UINT8)) or dimensions < 1 or len(data) < header:
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
            data = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            "This file is not sound gzip.", where=str(path), cause=str(error)
        ) from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"This file inflates to more than {_MAX_BYTES} bytes.", where=str(path))
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
