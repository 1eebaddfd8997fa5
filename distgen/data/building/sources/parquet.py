"""Pictures in a column of Parquet files, such as those of Hugging Face's `datasets`."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distgen.core.errors import DataError
from distgen.core.storage import Location, locate
from distgen.data.building.classes import number_classes
from distgen.data.building.convert import RejectedError
from distgen.data.building.sources.columns import Columns, find_columns
from distgen.data.building.sources.files import Below, StoredFile, by_split
from distgen.data.building.sources.item import Item, key_from
from distgen.data.building.sources.runs import Lined, line_up

SUFFIX = ".parquet"

_BATCH_ROWS = 32
_BUFFER_BYTES = 1 << 20
_OPEN_FILES = 16
_DAMAGED = (OSError, pa.ArrowException)


@dataclass(frozen=True)
class Cell:
    """A picture in a Parquet file."""

    file: StoredFile
    group: int
    row: int
    """Counted from the beginning of the row group."""
    column: str

    @property
    def version(self) -> str:
        """Which cell of which file."""
        place = f"{self.column} {self.group} {self.row}"
        return f"{self.file.url} {self.file.version} {place}"

    def load(self) -> bytes:
        """The bytes in the cell.

        Raises:
            RejectedError: There are none.
            DataError: The file cannot be read.
        """
        try:
            value = _reading.value(self.file.url, self.group, self.column, self.row)
        except _DAMAGED as error:
            raise self.file.unreadable(error) from error
        if isinstance(value, dict):
            path, value = value.get("path"), value["bytes"]
            if value is None and path is not None:
                raise RejectedError("it is a path, and the picture is not in the file")
        if value is None:
            raise RejectedError("there is no picture in this row (null)")
        return bytes(value)


class _Reading(threading.local):
    """The files that a thread has open, and its place in the row group that it read last.

    What lies before a row has to be read, but is not kept: a row group may be larger than memory.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._run: tuple[str, int, str] | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._begin = 0
        self._rows: Any = ()

    def value(self, url: str, group: int, column: str, row: int) -> Any:
        """What is in a cell, as a Python object."""
        if self._run != (url, group, column) or row < self._begin:
            self._run = None
            self._begin, self._rows = 0, ()
            self._batches = self._file(url).iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False
            )
            self._run = (url, group, column)
        while row >= self._begin + len(self._rows):
            self._begin += len(self._rows)
            self._rows = next(self._batches).column(0)
        return self._rows[row - self._begin].as_py()

    def _file(self, url: str) -> pq.ParquetFile:
        if url not in self._files:
            while len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)
            self._files[url] = open_parquet(locate(url))
        self._files.move_to_end(url)
        return self._files[url]


_reading = _Reading()


def open_parquet(place: Location) -> pq.ParquetFile:
    """The file, for reading in pieces."""
    return pq.ParquetFile(
        place.open_input(),
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        page_checksum_verification=True,
    )


@dataclass(frozen=True)
class _Opened:
    """What was read of a file at first: all but its pictures."""

    file: Below
    stored: StoredFile
    columns: Columns
    group_sizes: tuple[int, ...]
    labels: tuple[str, ...]
    """Different labels, as texts."""
    codes: np.ndarray
    """Number among them of each row's label, int32 [rows]; -1 where there is none."""

    @property
    def num_groups(self) -> int:
        return len(self.group_sizes)


class ParquetSource:
    """A Parquet file, or a folder of them.

    Args:
        place: The file or the folder.
        files: What lies there; what is no Parquet file becomes an item that is refused.
        image: Name of the column of pictures; None: found by itself.
        label: Name of the column of classes; None: found by itself.
        on_read: Told how many bytes of the files have been gone through, each time.
        workers: Files that are opened at a time.

    Raises:
        UsageError: A column is not there, or none or several could be meant.
        DataError: A file is damaged, or has other columns than the first.
    """

    default_size = None
    default_mode = None
    default_split = 0.0

    def __init__(
        self,
        place: Location,
        files: Sequence[Below],
        image: str | None,
        label: str | None,
        on_read: Callable[[int], None],
        workers: int,
    ) -> None:
        self.name = place.name.removesuffix(SUFFIX)
        fitting = [file for file in files if is_parquet(file)]
        first = _columns_of(fitting[0], image, label)

        def read(file: Below) -> _Opened:
            opened = _open(file, first)
            on_read(file.place.size())
            return opened

        with ThreadPoolExecutor(workers, "distgen-parquet") as threads:
            opened = dict(
                zip((f.relative for f in fitting), threads.map(read, fitting), strict=True)
            )
        self.classes, numbers = _classes(first, list(opened.values()))
        parts = by_split(fitting)
        self.splits = tuple(name for name in parts if name is not None)
        others = [refused(file) for file in files if not is_parquet(file)]
        self._items = {
            name: _line_up([opened[file.relative] for file in part], numbers, others * (not number))
            for number, (name, part) in enumerate(parts.items())
        }

    def items(self, split: str | None, /) -> Sequence[Item]:
        """The rows of one split, or all of them."""
        return self._items[split]


def is_parquet(file: Below) -> bool:
    """Whether this is a Parquet file by its name, and may be read."""
    return file.place.name.lower().endswith(SUFFIX) and not file.refused


def refused(file: Below) -> Item:
    """The item that lists a file as one that does not belong here."""
    reason = file.refused or "the source is Parquet files, and it is none"
    return Item(key_from(file.relative, file.relative), str(file.place), -1, Path(), reason)


def _columns_of(file: Below, image: str | None, label: str | None) -> Columns:
    try:
        with open_parquet(file.place) as opened:
            return find_columns(opened.schema_arrow, str(file.place), image, label)
    except _DAMAGED as error:
        raise _unreadable(file, error) from error


def _open(file: Below, columns: Columns) -> _Opened:
    """Read a file's footer and its column of classes."""
    try:
        stored = StoredFile(file.place.url, file.place.version())
        with open_parquet(file.place) as opened:
            own = find_columns(opened.schema_arrow, str(file.place), columns.image, columns.label)
            about = opened.metadata
            sizes = [about.row_group(n).num_rows for n in range(opened.num_row_groups)]
            labels, codes = _labels(opened, own.label)
    except _DAMAGED as error:
        raise _unreadable(file, error) from error
    return _Opened(file, stored, own, tuple(sizes), labels, codes)


def _labels(file: pq.ParquetFile, column: str | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Different labels as texts, and the number of each row's among them."""
    if column is None:
        return (), np.full(file.metadata.num_rows, -1, np.int32)
    found: dict[str, int] = {}
    codes = [np.empty(0, np.int32)]
    for batch in file.iter_batches(1 << 16, columns=[column], use_threads=False):
        values = batch.column(0)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        encoded = values.dictionary_encode()
        numbers = [
            found.setdefault(text, len(found)) if text is not None else -1
            for text in map(_text_of, encoded.dictionary.to_pylist())
        ]
        places = encoded.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
        codes.append(np.array([*numbers, -1], np.int32)[places])
    return tuple(found), np.concatenate(codes)


def _text_of(value: object) -> str | None:
    """A label as text; None for what says that there is none, such as -1."""
    if isinstance(value, int):
        return str(int(value)) if value >= 0 else None
    return str(value).strip() or None


def _classes(columns: Columns, opened: Sequence[_Opened]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the number of each label."""
    labels: dict[str, str] = {}
    for each in opened:
        if each.columns.names != columns.names:
            raise DataError(
                "The files name other classes.",
                where=str(each.file.place),
                cause=f"its metadata name {len(each.columns.names)} classes, and those of "
                f"{opened[0].file.place} name {len(columns.names)}, or others",
                remedy="build a shard set of each",
            )
        for text in each.labels:
            labels.setdefault(text, str(each.file.place))
    return number_classes(labels, columns.names) if labels else (columns.names, {})


def _line_up(
    opened: Sequence[_Opened], numbers: Mapping[str, int], others: Sequence[Item]
) -> Lined:
    """The rows of some files, and items that are none of theirs."""
    groups = [(file, group) for file, each in enumerate(opened) for group in range(each.num_groups)]
    sizes = [opened[file].group_sizes[group] for file, group in groups]
    starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    labels = np.concatenate(
        [np.empty(0, np.int32)]
        + [
            np.array([*(numbers.get(text, -1) for text in each.labels), -1], np.int32)[each.codes]
            for each in opened
        ]
    )

    def make(number: int) -> Item:
        if number >= starts[-1]:
            return others[number - int(starts[-1])]
        run = int(np.searchsorted(starts, number, side="right")) - 1
        file, group = groups[run]
        each, row = opened[file], number - int(starts[run])
        name = f"{each.file.relative}#{group}/{row}"
        stem = each.file.relative[: -len(SUFFIX)]
        return Item(
            key_from(f"{stem}-{group}-{row}", name),
            f"{each.file.place}#{group}/{row}",
            int(labels[number]),
            Cell(each.stored, group, row, each.columns.image),
        )

    names = [f"{opened[file].file.relative}#{group}" for file, group in groups]
    told = [(each.file.relative, each.stored, each.columns, each.group_sizes) for each in opened]
    digest = hashlib.sha256(repr((told, others)).encode())
    digest.update(labels.tobytes())
    return line_up(
        names + [each.key for each in others], sizes + [1] * len(others), make, digest.hexdigest()
    )


def _unreadable(file: Below, error: Exception) -> DataError:
    asked = "" if file.place.local is not None else f" (credentials: {file.place.credentials})"
    return DataError(
        "A Parquet file cannot be read.",
        where=str(file.place),
        cause=f"{' '.join(str(error).split())}{asked}",
        remedy="copy it again from where it came",
    )
