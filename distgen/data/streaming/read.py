"""Encoded samples by their indices: range reads of contiguous spans, every byte checked."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from distgen.core.errors import DataError
from distgen.core.storage import Ranges
from distgen.data.formats.decode import decode_into
from distgen.data.index import IndexReader, ShardSet
from distgen.data.keeping.disk import DiskCache, KeptPages
from distgen.data.rows import ShardRows
from distgen.data.streaming.pages import Pages, Source

# Bytes between two wanted samples that are read along rather than skipped: what is cheaper than a
# second call.
LOCAL_GAP = 4096
MAX_SPAN = 32 << 20
MAX_OPEN_SHARDS = 256
READ_AHEAD_MIB = 1024


class SampleError(DataError):
    """One sample is damaged, which says nothing of the others."""

    shard: str
    """Path or URL of its tar."""
    key: str
    """Its name."""
    reason: str
    """What is wrong with it."""


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
    """Reads samples of one shard set. Thread-safe; opens shards as they are needed.

    Args:
        shard_set: What to read.
        read_ahead_mib: Memory in MiB for bytes of a remote set that are fetched ahead.
        disk: Where bytes of a remote set are kept, if anywhere.
    """

    def __init__(
        self,
        shard_set: ShardSet,
        read_ahead_mib: int = READ_AHEAD_MIB,
        disk: DiskCache | None = None,
    ) -> None:
        self._set = shard_set
        self._index = IndexReader(shard_set)
        self._pages = None
        if shard_set.location.local is None:
            kept = disk.of(shard_set) if disk is not None else None
            self._pages = Pages(self._source(kept), read_ahead_mib << 20)
        self._files: OrderedDict[int, Ranges] = OrderedDict()
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
        self._begin(indices, reads=0)
        for shard, places, rows in self._by_shard(indices):
            index = self._index.rows(shard)
            offsets, sizes, sums = index.offset[rows], index.size[rows], index.crc32[rows].tolist()
            slots = places.tolist()
            pictures = (
                self._from_spans(shard, offsets, sizes)
                if self._pages is None
                else self._from_pages(self._pages, shard, offsets, sizes)
            )
            for member, picture in pictures:
                if zlib.crc32(picture) != sums[member]:
                    picture = self._again(shard, index, int(rows[member]))
                result[slots[member]] = picture
        return result

    def expect(self, indices: np.ndarray) -> None:
        """Begin to fetch samples of a remote set that will be read once; others wait till then.

        Raises:
            DataError: The index is damaged.
        """
        self._begin(indices, reads=1)

    def expect_nothing(self) -> None:
        """Take back what was expected, because reading goes on elsewhere."""
        if self._pages is not None:
            self._pages.expect_nothing()

    def decode(self, indices: np.ndarray, out_nhwc: Iterable[np.ndarray]) -> None:
        """Read and decode pictures into `out_nhwc`, uint8 [n, H, W, C] or as many [H, W, C].

        Clips have a dimension [T] before these.

        Raises:
            DataError: Bytes are missing, damaged, or no picture or clip of the set's size.
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
        if self._pages is not None:
            self._pages.close()
        with self._lock:
            self._files.clear()
        self._index.close()

    def _begin(self, indices: np.ndarray, reads: int) -> None:
        if self._pages is None:
            return
        for shard, _, rows in self._by_shard(indices):
            index = self._index.rows(shard)
            begins = index.offset[rows].tolist()
            ends = (index.offset[rows] + index.size[rows]).tolist()
            ranges = zip(begins, ends, strict=True)
            self._pages.expect(shard, ranges, self._bytes(shard), reads=reads)

    def _from_spans(
        self, shard: int, offsets: np.ndarray, sizes: np.ndarray
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        """Pictures of a shard on this machine, each with its place in the request."""
        begins, lengths = offsets.tolist(), sizes.tolist()
        file = self._file(shard)
        for span in spans(offsets, sizes, LOCAL_GAP):
            data = self._read(file, shard, span.start, span.stop)
            for member in span.members:
                begin = begins[member] - span.start
                yield member, _part(data, begin, begin + lengths[member])

    def _from_pages(
        self, pages: Pages, shard: int, offsets: np.ndarray, sizes: np.ndarray
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        """Pictures of a shard in a store, each with its place in the request."""
        ends = (offsets + sizes).tolist()
        for member, (begin, end) in enumerate(zip(offsets.tolist(), ends, strict=True)):
            yield member, pages.read(shard, begin, end, self._bytes(shard))

    def _bytes(self, shard: int) -> int:
        return self._set.manifest.shards[shard].bytes

    def _by_shard(self, indices: np.ndarray) -> Sequence[tuple[int, np.ndarray, np.ndarray]]:
        """Shards that hold these samples: their number, places in `indices`, rows in the shard."""
        shards = np.searchsorted(self._set.starts, indices, side="right") - 1
        return [
            (shard, places, indices[places] - self._set.starts[shard])
            for shard in np.unique(shards).tolist()
            for places in [np.flatnonzero(shards == shard)]
        ]

    def _fetch(self, shard: int, start: int, stop: int) -> bytes:
        """The bytes of a shard from `start` to `stop`, which is not among them."""
        return self._read(self._file(shard), shard, start, stop)

    def _read(self, file: Ranges, shard: int, start: int, stop: int) -> bytes:
        try:
            data = file.read_at(start, stop - start)
        except OSError as error:
            raise self._unreadable(shard, f", bytes {start} to {stop}", error) from error
        if len(data) != stop - start:
            raise DataError(
                "A shard of this set is cut short.",
                where=str(self._set.shard(shard)),
                cause=f"it ends at byte {start + len(data)}, "
                f"but the index names bytes up to {stop}",
                remedy=f"distgen data verify {self._set.location}",
            )
        return data

    def _source(self, kept: KeptPages | None) -> Source:
        if kept is None:
            return Source(self._fetch, self._fetch)

        def fetch(shard: int, start: int, stop: int) -> bytes:
            return kept.fetch(shard, start, stop, self._fetch)

        def refetch(shard: int, start: int, stop: int) -> bytes:
            kept.drop(shard, start)
            return fetch(shard, start, stop)

        return Source(fetch, refetch)

    def _again(self, shard: int, index: ShardRows, row: int) -> bytes | memoryview:
        """A sample whose bytes came wrong, once more: a network or a disk may have spoilt them."""
        begin, size = int(index.offset[row]), int(index.size[row])
        data: bytes | memoryview
        if self._pages is None:
            data = self._fetch(shard, begin, begin + size)
        else:
            data = self._pages.read_again(shard, begin, begin + size, self._bytes(shard))
        if zlib.crc32(data) != int(index.crc32[row]):
            raise self._damaged(shard, row, size)
        return data

    def _file(self, shard: int) -> Ranges:
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                file = self._files[shard] = self._open(shard)
                # A reader that still uses the evicted file keeps it open until it is done.
                while len(self._files) > MAX_OPEN_SHARDS:
                    self._files.popitem(last=False)
            self._files.move_to_end(shard)
            return file

    def _open(self, shard: int) -> Ranges:
        place = self._set.shard(shard)
        try:
            return place.open_ranges()
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
            cause=f"{error}{self._asked_as()}",
            remedy=f"distgen data verify {self._set.location}",
        )

    def _asked_as(self) -> str:
        location = self._set.location
        return "" if location.local is not None else f" (credentials: {location.credentials})"

    def _damaged(self, shard: int, row: int, size: int) -> SampleError:
        return self._sample_error(
            shard,
            row,
            "A sample does not match its checksum.",
            f"its {size} bytes changed after they were written",
        )

    def _sample_error(self, shard: int, row: int, what: str, cause: str) -> SampleError:
        index = self._index.rows(shard)
        begin = int(index.offset[row])
        tar, key = str(self._set.shard(shard)), self._index.key(shard, row)
        error = SampleError(
            what,
            where=f"{tar}, sample {key!r}, bytes {begin} to {begin + int(index.size[row])}",
            cause=cause,
            remedy=f"distgen data verify {self._set.location}",
        )
        error.shard, error.key, error.reason = tar, key, cause
        return error


def _part(data: bytes, begin: int, end: int) -> bytes | memoryview:
    """A part of a span, without a copy."""
    return data if len(data) == end - begin else memoryview(data)[begin:end]
