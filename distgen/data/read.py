"""Encoded samples by their indices: range reads of contiguous spans, every byte checked."""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from pyarrow import NativeFile

from distgen.core.errors import DataError
from distgen.core.storage import Location
from distgen.data.decode import decode_into
from distgen.data.index import IndexReader, ShardSet

# Bytes between two wanted samples that are read along rather than skipped: what is cheaper than a
# second request, on a disk and in an object store.
LOCAL_GAP = 4096
REMOTE_GAP = 1 << 20
MAX_SPAN = 32 << 20
MAX_OPEN_SHARDS = 256


class Span(NamedTuple):
    """A byte range to read at once, and the places in the request that it serves."""

    start: int
    stop: int
    members: tuple[int, ...]


def spans(offsets: np.ndarray, sizes: np.ndarray, gap: int, max_span: int = MAX_SPAN) -> list[Span]:
    """Byte ranges of one shard joined where at most `gap` bytes lie between them.

    Args:
        offsets: Where the ranges begin, int64 [n], in any order.
        sizes: Their lengths in bytes, int64 [n].
        gap: Bytes that may be read for nothing between two ranges.
        max_span: Length in bytes after which a span is joined no further.
    """
    result: list[Span] = []
    members: list[int] = []
    start = stop = 0
    order = np.argsort(offsets, kind="stable")
    # Lists: reading single elements out of arrays would cost more than all the rest.
    ranges = zip(order.tolist(), offsets[order].tolist(), sizes[order].tolist(), strict=True)
    for member, begin, size in ranges:
        end = begin + size
        if members and (begin - stop > gap or max(end, stop) - start > max_span):
            result.append(Span(start, stop, tuple(members)))
            members = []
        if not members:
            start = stop = begin
        members.append(member)
        stop = max(stop, end)
    if members:
        result.append(Span(start, stop, tuple(members)))
    return result


class SampleReader:
    """Reads samples of one shard set. Thread-safe; opens shards as they are needed."""

    def __init__(self, shard_set: ShardSet) -> None:
        self._set = shard_set
        self._index = IndexReader(shard_set)
        local = shard_set.location.local is not None
        self._gap = LOCAL_GAP if local else REMOTE_GAP
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._lock = threading.Lock()

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Classes of samples, int64 [n]; -1 where there is none."""
        labels = np.empty(len(indices), np.int64)
        for shard, places, rows in self._by_shard(indices):
            labels[places] = self._index.rows(shard).label[rows]
        return labels

    def encoded(self, indices: np.ndarray) -> list[bytes | memoryview]:
        """The encoded pictures of samples, in the order of `indices`.

        Raises:
            DataError: Bytes are missing, cannot be read, or are not what the index says.
        """
        result: list[bytes | memoryview] = [b""] * len(indices)
        for shard, places, rows in self._by_shard(indices):
            index = self._index.rows(shard)
            offsets, sizes = index.offset[rows], index.size[rows]
            begins, lengths, sums = offsets.tolist(), sizes.tolist(), index.crc32[rows].tolist()
            slots = places.tolist()
            file = self._file(shard)
            for span in spans(offsets, sizes, self._gap):
                data = self._read(file, shard, span)
                for member in span.members:
                    begin = begins[member] - span.start
                    picture = _part(data, begin, begin + lengths[member])
                    if zlib.crc32(picture) != sums[member]:
                        raise self._damaged(shard, int(rows[member]), len(picture))
                    result[slots[member]] = picture
        return result

    def decode(self, indices: np.ndarray, out_nhwc: np.ndarray) -> None:
        """Read and decode pictures into `out_nhwc`, uint8 [n, H, W, C].

        Raises:
            DataError: Bytes are missing, damaged, or no picture of the set's size.
        """
        for index, data, out_hwc in zip(indices, self.encoded(indices), out_nhwc, strict=True):
            try:
                decode_into(data, out_hwc)
            except ValueError as error:
                shard = int(np.searchsorted(self._set.starts, index, side="right")) - 1
                row = int(index - self._set.starts[shard])
                raise self._sample_error(
                    shard, row, "A sample cannot be decoded.", str(error)
                ) from error

    def close(self) -> None:
        """Close the files that are open."""
        with self._lock:
            self._files.clear()
        self._index.close()

    def _by_shard(self, indices: np.ndarray) -> Sequence[tuple[int, np.ndarray, np.ndarray]]:
        """Shards that hold these samples: their number, places in `indices`, rows in the shard."""
        shards = np.searchsorted(self._set.starts, indices, side="right") - 1
        return [
            (shard, places, indices[places] - self._set.starts[shard])
            for shard in np.unique(shards).tolist()
            for places in [np.flatnonzero(shards == shard)]
        ]

    def _read(self, file: _File, shard: int, span: Span) -> bytes:
        try:
            data = file.read_at(span.start, span.stop - span.start)
        except OSError as error:
            part = f", bytes {span.start} to {span.stop}"
            raise self._unreadable(shard, part, error) from error
        if len(data) != span.stop - span.start:
            raise DataError(
                "A shard of this set is cut short.",
                where=str(self._set.shard(shard)),
                cause=f"it ends at byte {span.start + len(data)}, "
                f"but the index names bytes up to {span.stop}",
                remedy=f"distgen data verify {self._set.location}",
            )
        return data

    def _file(self, shard: int) -> _File:
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                file = self._files[shard] = self._open(shard)
                # A reader that still uses the evicted file keeps it open until it is done.
                while len(self._files) > MAX_OPEN_SHARDS:
                    self._files.popitem(last=False)
            self._files.move_to_end(shard)
            return file

    def _open(self, shard: int) -> _File:
        place = self._set.shard(shard)
        try:
            return _LocalFile(place) if place.local is not None else _RemoteFile(place)
        except FileNotFoundError as error:
            raise DataError(
                "A shard of this set is missing.",
                where=str(place),
                remedy=f"distgen data verify {self._set.location}",
            ) from error
        except OSError as error:
            raise self._unreadable(shard, "", error) from error

    def _unreadable(self, shard: int, part: str, error: OSError) -> DataError:
        return DataError(
            "A shard of this set cannot be read.",
            where=f"{self._set.shard(shard)}{part}",
            cause=str(error),
            remedy=f"distgen data verify {self._set.location}",
        )

    def _damaged(self, shard: int, row: int, size: int) -> DataError:
        return self._sample_error(
            shard,
            row,
            "A sample does not match its checksum.",
            f"its {size} bytes changed after they were written",
        )

    def _sample_error(self, shard: int, row: int, what: str, cause: str) -> DataError:
        index = self._index.rows(shard)
        begin = int(index.offset[row])
        return DataError(
            what,
            where=f"{self._set.shard(shard)}, sample {self._index.key(shard, row)!r}, "
            f"bytes {begin} to {begin + int(index.size[row])}",
            cause=cause,
            remedy=f"distgen data verify {self._set.location}",
        )


def _part(data: bytes, begin: int, end: int) -> bytes | memoryview:
    """A part of a span, without a copy."""
    return data if len(data) == end - begin else memoryview(data)[begin:end]


class _File(Protocol):
    """A file that several threads may read at any place."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        ...


class _LocalFile:
    def __init__(self, place: Location) -> None:
        self._file = open(place.path, "rb", buffering=0)  # noqa: PTH123, SIM115

    def read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset)
        while len(data) < size:  # a signal or a network disk may give less at once
            more = os.pread(self._file.fileno(), size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class _RemoteFile:
    def __init__(self, place: Location) -> None:
        self._file: NativeFile = place.filesystem.open_input_file(place.path)

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self._file.read_at(size, offset))
