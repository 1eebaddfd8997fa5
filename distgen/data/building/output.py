"""Files that appear whole or not at all, and the index among them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from distgen.core.storage import Location
from distgen.data.index import INDEX_NAME, IndexEntry


class IndexWriter:
    """Writes the index of a shard set; it is there after `commit`.

    Args:
        location: The set's folder.
        fields: Extensions of the members that samples may have.
    """

    def __init__(self, location: Location, fields: Iterable[str]) -> None:
        self.schema = _schema(fields)
        """Columns of the table: key, label, width, height; offset, size and crc32 of each field."""
        self._file = Output(location / INDEX_NAME)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._file, mode="w"),
            self.schema,
            compression="zstd",
            write_page_checksum=True,
        )

    def add(self, rows: pa.Table) -> None:
        """Append the rows of the next shard, which become one row group."""
        self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))

    def commit(self) -> IndexEntry:
        """Make the file appear; returns what the manifest says of it."""
        self._writer.close()
        size, digest = self._file.commit()
        return IndexEntry(bytes=size, sha256=digest)

    def abort(self) -> None:
        """Remove what is unfinished; does nothing after `commit`."""
        with contextlib.suppress(OSError):  # a full disk must not hide the error that led here
            self._writer.close()
        self._file.abort()


class Output(io.RawIOBase):
    """A file that is hashed as it is written and appears whole, at `commit`, or not at all."""

    def __init__(self, place: Location) -> None:
        self._place = place
        self._digest = hashlib.sha256()
        self._size = 0
        self._aside: Path | None = None
        if place.local is not None:
            self._aside = place.local.with_name(f".{place.name}.{os.getpid()}.tmp")
            self._file: IO[bytes] = self._aside.open("wb")
        else:
            self._file = place.filesystem.open_output_stream(place.path)

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """Append bytes; returns how many."""
        size = memoryview(data).nbytes
        self._file.write(data)
        self._digest.update(data)
        self._size += size
        return size

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    def commit(self) -> tuple[int, str]:
        """Make the file appear; returns its size in bytes and its SHA-256."""
        if self._aside is None:
            self._file.close()
        else:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._aside, self._place.path)
        return self._size, self._digest.hexdigest()

    def abort(self) -> None:
        """Remove what was written."""
        self._file.close()
        if self._aside is not None:
            self._aside.unlink(missing_ok=True)


def _schema(fields: Iterable[str]) -> pa.Schema:
    columns = [pa.field("key", pa.string(), False)]
    columns += [pa.field(name, pa.int32(), False) for name in ("label", "width", "height")]
    for field in fields:
        columns += [
            pa.field(f"{field}.offset", pa.int64()),
            pa.field(f"{field}.size", pa.int64()),
            pa.field(f"{field}.crc32", pa.uint32()),
        ]
    return pa.schema(columns)
