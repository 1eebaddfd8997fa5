"""Pages give the bytes of the shard, each fetched once as long as the budget lets them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.data.streaming import pages as module
from distgen.data.streaming.pages import Fetch, Pages, Source

SHARD = np.random.default_rng(0).integers(0, 256, 10_007, dtype=np.uint8).tobytes()
RANGES = st.lists(
    st.tuples(st.integers(0, len(SHARD)), st.integers(0, 3000)).map(
        lambda pair: (pair[0], min(pair[0] + pair[1], len(SHARD)))
    ),
    max_size=20,
)


@pytest.fixture(autouse=True, scope="module")
def small_pages() -> Iterator[None]:
    """Pages of a kilobyte."""
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "PAGE_BYTES", 1000)
    yield
    patch.undo()


@contextmanager
def opened(budget: int, fetch: Fetch, refetch: Fetch | None = None) -> Iterator[Pages]:
    pages = Pages(Source(fetch, refetch or fetch), budget)
    try:
        yield pages
    finally:
        pages.close()


@given(RANGES, RANGES, st.integers(0, 12_000))
def test_bytes_are_the_shards_whatever_was_expected(
    expected: list[tuple[int, int]], read: list[tuple[int, int]], budget: int
) -> None:
    with opened(budget, lambda _, start, stop: SHARD[start:stop]) as pages:
        pages.expect(0, expected, len(SHARD))
        for start, stop in read:
            assert bytes(pages.read(0, start, stop, len(SHARD))) == SHARD[start:stop]


@given(st.permutations(range(100)))
def test_samples_in_any_order_cost_each_page_once(order: list[int]) -> None:
    fetched: Counter[tuple[int, int]] = Counter()

    def fetch(shard: int, start: int, stop: int) -> bytes:
        fetched[shard, start] += 1
        return SHARD[start:stop]

    ranges = [(100 * n, 100 * n + 100) for n in order]
    with opened(len(SHARD), fetch) as pages:
        pages.expect(3, ranges, len(SHARD))
        for start, stop in ranges:
            pages.read(3, start, stop, len(SHARD))
    assert fetched == {(3, start): 1 for start in range(0, 10_000, 1000)}


def test_what_is_expected_stays_and_what_was_read_makes_room() -> None:
    fetched: list[int] = []

    def fetch(_: int, start: int, stop: int) -> bytes:
        fetched.append(start)
        return SHARD[start:stop]

    with opened(2000, fetch) as pages:
        pages.expect(0, [(0, 10), (1000, 1010), (2000, 2010)], len(SHARD))
        pages.read(0, 1000, 1010, len(SHARD))
        assert sorted(fetched) == [0, 1000], "there was no room for the third"
        pages.expect(0, [(2000, 2010)], len(SHARD))
        pages.read(0, 2000, 2010, len(SHARD))
        pages.read(0, 0, 10, len(SHARD))
        assert sorted(fetched) == [0, 1000, 2000], "the second was dropped, and not the first"
        pages.read(0, 1000, 1010, len(SHARD))
        assert fetched[-1] == 1000


def test_moving_elsewhere_frees_what_was_expected() -> None:
    with opened(1000, lambda _, start, stop: SHARD[start:stop]) as pages:
        pages.expect(0, [(0, 10)], len(SHARD))
        pages.expect_nothing()
        begun = threading.Event()
        pages._source = Source(lambda _, start, stop: (begun.set(), SHARD[start:stop])[1], None)
        pages.expect(0, [(5000, 5010)], len(SHARD))
        assert begun.wait(10)


def test_failed_fetch_is_raised_where_its_bytes_are_read_and_not_repeated() -> None:
    asked: list[int] = []

    def fetch(_: int, start: int, stop: int) -> bytes:
        asked.append(start)
        raise OSError("the store is away")

    with opened(5000, fetch) as pages:
        pages.expect(0, [(0, 10), (20, 30)], len(SHARD))
        for start in (0, 20):
            with pytest.raises(OSError, match="away"):
                pages.read(0, start, start + 10, len(SHARD))
    assert asked == [0]


def test_a_page_with_wrong_bytes_is_fetched_once_more_for_all_who_read_it() -> None:
    fetched: list[str] = []

    def wrong(_: int, start: int, stop: int) -> bytes:
        fetched.append("first")
        return bytes(stop - start)

    def right(_: int, start: int, stop: int) -> bytes:
        fetched.append("again")
        return SHARD[start:stop]

    with opened(5000, wrong, right) as pages:
        pages.expect(0, [(0, 10), (500, 510)], len(SHARD))
        assert not any(pages.read(0, 0, 10, len(SHARD)))
        for start in (0, 500):
            assert bytes(pages.read_again(0, start, start + 10, len(SHARD))) == SHARD[start:][:10]
        assert bytes(pages.read(0, 500, 510, len(SHARD))) == SHARD[500:510]
        assert fetched == ["first", "again"]
        assert bytes(pages.read_again(0, 900, 1100, len(SHARD))) == SHARD[900:1100]
    assert fetched == ["first", "again", "again"], "the page beside it was another"
