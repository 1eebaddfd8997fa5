"""Bytes of remote shards in pages: few large requests, many at a time, before they are needed.

A request to an object store takes tens of milliseconds however small it is, so a sample must not be
one. A lane's window of the order is one contiguous range, whose samples come mixed with those of
all other lanes: each of its pages is fetched once, and kept until the last of its samples has come.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

PAGE_BYTES = 1 << 20
CONNECTIONS = 32

Fetch = Callable[[int, int, int], bytes]
"""The bytes of a shard from a first to a last one, which is not among them."""


@dataclass
class _Page:
    data: Future[bytes]
    expected: int
    """Reads that were announced and have not come."""
    fresh: bool = False
    """Whether it was fetched a second time, from where the set lies."""


class Source(NamedTuple):
    """Where pages come from; called from several threads."""

    fetch: Fetch
    refetch: Fetch
    """Fetches what `fetch` gave with wrong bytes, from where the set lies."""


class Pages:
    """Keeps pages within a budget. Thread-safe.

    Args:
        source: Reads parts of shards.
        budget_bytes: Memory for pages. One that is asked for is fetched even beyond it.
    """

    def __init__(self, source: Source, budget_bytes: int) -> None:
        self._source = source
        self._limit = max(1, budget_bytes // PAGE_BYTES)
        self._pages: OrderedDict[tuple[int, int], _Page] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(CONNECTIONS, "distgen-fetch")

    def expect(
        self, shard: int, ranges: Iterable[tuple[int, int]], shard_bytes: int, *, reads: int = 1
    ) -> None:
        """Begin to fetch what `read` will ask for; without room for it nothing happens.

        Args:
            shard: Which shard.
            ranges: First and last byte of each read, the last not included.
            shard_bytes: Size of the shard.
            reads: How often each will be asked for; 0 where that was said before.
        """
        with self._lock:
            for start, stop in ranges:
                for number in _numbers(start, stop):
                    page = self._pages.get((shard, number))
                    if page is None and self._make_room():
                        page = self._begin(shard, number, shard_bytes)
                    if page is not None:
                        page.expected += reads

    def read(self, shard: int, start: int, stop: int, shard_bytes: int) -> bytes | memoryview:
        """The bytes of a shard from `start` to `stop`; fewer only where the shard has no more.

        Raises:
            Whatever fetching them raised.
        """

        def page_of(number: int) -> _Page:
            page = self._pages.get((shard, number))
            if page is None:
                self._make_room()
                page = self._begin(shard, number, shard_bytes)
            page.expected -= 1
            self._pages.move_to_end((shard, number))
            return page

        return self._joined(start, stop, page_of)

    def read_again(self, shard: int, start: int, stop: int, shard_bytes: int) -> bytes | memoryview:
        """What `read` gave with wrong bytes; its pages are fetched once more, for all readers.

        Raises:
            Whatever fetching them raised.
        """

        def page_of(number: int) -> _Page:
            page = self._pages.get((shard, number))
            if page is None or not page.fresh:
                expected = 0 if page is None else page.expected
                page = self._begin(shard, number, shard_bytes, fresh=True)
                page.expected = expected
            return page

        return self._joined(start, stop, page_of)

    def expect_nothing(self) -> None:
        """Take back all that was expected, because the reader has moved elsewhere."""
        with self._lock:
            for page in self._pages.values():
                page.expected = 0

    def close(self) -> None:
        """Forget all pages, and wait for those that are being fetched."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pages.clear()

    def _joined(self, start: int, stop: int, page_of: Callable[[int], _Page]) -> bytes | memoryview:
        """These bytes of the pages that `page_of` gives by their numbers, while it has the lock."""
        parts = []
        for number in _numbers(start, stop):
            with self._lock:
                page = page_of(number)
            parts.append(_part(page, number, start, stop))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _begin(self, shard: int, number: int, shard_bytes: int, *, fresh: bool = False) -> _Page:
        first = number * PAGE_BYTES
        last = max(first, min(first + PAGE_BYTES, shard_bytes))
        fetch = self._source.refetch if fresh else self._source.fetch
        page = _Page(self._threads.submit(fetch, shard, first, last), 0, fresh)
        self._pages[shard, number] = page
        return page

    def _make_room(self) -> bool:
        """Drop pages of which nothing more is expected, the longest unused first."""
        if len(self._pages) < self._limit:
            return True
        unused = [key for key, page in self._pages.items() if page.expected <= 0]
        for key in unused[: len(self._pages) - self._limit + 1]:
            del self._pages[key]
        return len(self._pages) < self._limit


def _part(page: _Page, number: int, start: int, stop: int) -> memoryview:
    """What a page holds of these bytes."""
    # What could not be fetched was tried for minutes: all who wait for it are told at once.
    data = page.data.result()
    first = number * PAGE_BYTES
    return memoryview(data)[max(0, start - first) : stop - first]


def _numbers(start: int, stop: int) -> Iterator[int]:
    """The pages that hold these bytes."""
    return iter(range(start // PAGE_BYTES, -(-stop // PAGE_BYTES)))
