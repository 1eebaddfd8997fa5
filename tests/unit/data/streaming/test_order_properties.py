"""What a run may rely on, whatever the set, the batch and the number of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distgen.core.storage import Location
from distgen.core.world import World
from distgen.data import Stream
from distgen.data.streaming.order import ORDER_VERSION, Order
from tests.unit.data.conftest import Made

RANKS = (1, 2, 3, 5, 8)
COUNTS = st.lists(st.integers(1, 60), min_size=1, max_size=10).map(tuple)
# The order of a version, over sets of one lane and of many, for ever.
GOLDEN = {1: "c9b1dba914f8c4e4f8b137e79fdd3955da5aec5721ddde15d7e6133828b7beef"}


def order_of(counts: tuple[int, ...], lanes: int, window: int, seed: int = 0) -> Order:
    return Order(counts, "f", seed=seed, lanes=lanes, shuffle_window=window)


def by_ranks(order: Order, start: int, batch_size: int, size: int) -> list[np.ndarray]:
    """Each rank's part of a global batch, from an order of its own."""
    return [
        order_of(order.shard_samples, order.lanes, order.shuffle_window, order.seed).batch(
            start, batch_size, World(rank, size)
        )[0]
        for rank in range(size)
    ]


@given(COUNTS, st.integers(1, 90), st.integers(1, 200), st.integers(1, 150), st.sampled_from(RANKS))
@example((7,), 64, 16, 100, 8)  # one shard, and an epoch shorter than a batch
@example((1,), 64, 16, 9, 5)  # one sample
@example((3, 50), 4, 8, 16, 8)  # fewer shards than ranks
@example((3, 50), 100, 8, 3, 3)  # more lanes than a window has samples, and than the set has
@settings(max_examples=150)
def test_ranks_together_see_every_sample_once_per_epoch_in_one_order(
    counts: tuple[int, ...], lanes: int, window: int, batch_size: int, size: int
) -> None:
    order = order_of(counts, lanes, window)
    total, epochs = sum(counts), 2
    sequence = []
    for start in range(0, epochs * total, batch_size):
        parts = by_ranks(order, start, batch_size, size)
        lengths = {len(part) for part in parts}
        assert max(lengths) - min(lengths) <= 1
        whole = np.empty(batch_size, np.int64)
        for rank, part in enumerate(parts):
            whole[rank::size] = part
        assert whole.tolist() == order.batch(start, batch_size)[0].tolist()
        sequence += whole.tolist()
    for epoch in range(epochs):
        assert sorted(sequence[epoch * total : (epoch + 1) * total]) == list(range(total))


@given(COUNTS, st.integers(1, 90), st.integers(1, 200), st.integers(0, 5), st.randoms())
def test_positions_of_an_epoch_and_samples_are_one_to_one_in_any_order_of_asking(
    counts: tuple[int, ...], lanes: int, window: int, epoch: int, random: object
) -> None:
    total = sum(counts)
    positions = np.arange(epoch * total, (epoch + 1) * total)
    forward = order_of(counts, lanes, window).indices(positions)
    assert sorted(forward.tolist()) == list(range(total))
    asked = np.array(sorted(positions, key=lambda _: random.random()))  # type: ignore[attr-defined]
    order = order_of(counts, lanes, window)
    single = np.concatenate([order.indices(asked[i : i + 7]) for i in range(0, total, 7)])
    assert (forward[asked - epoch * total] == single).all()


@given(COUNTS, st.integers(1, 40), st.integers(1, 100), st.integers(1, 30), st.data())
@settings(max_examples=80)
def test_a_run_that_changes_its_ranks_at_every_batch_sees_what_one_rank_sees(
    counts: tuple[int, ...], lanes: int, window: int, batch_size: int, data: st.DataObject
) -> None:
    order = order_of(counts, lanes, window)
    for start in range(0, 2 * sum(counts), batch_size):
        size = data.draw(st.sampled_from(RANKS))
        whole = np.empty(batch_size, np.int64)
        for rank, part in enumerate(by_ranks(order, start, batch_size, size)):
            whole[rank::size] = part
        assert whole.tolist() == order.batch(start, batch_size)[0].tolist()


@given(st.integers(0, 10**13), st.integers(1, 4096), st.sampled_from(RANKS))
@settings(max_examples=30)
def test_resume_computes_the_windows_of_its_batch_and_no_more(
    start: int, batch_size: int, size: int
) -> None:
    order = Order((10**6,) * 50, "f", lanes=16, shuffle_window=1024)
    order.batch(start, batch_size, World(size - 1, size))
    blocks = [key for key in order._memo if key[0] == "block"]
    # Each block is a window of 1024; a batch that begins inside one ends inside another.
    assert len(blocks) <= min(8, 2 + batch_size // 1024)
    assert all(len(order._memo[key][0]) <= 1024 for key in blocks)


@pytest.mark.parametrize("size", RANKS)
def test_a_resumed_stream_reads_at_most_one_window(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    made = make(150, 7, 300, 43)
    sample_bytes = sum(shard.bytes for shard in made.shard_set.manifest.shards) / 500
    read = []
    opened = Location.open_ranges

    class Counted:
        def __init__(self, place: Location) -> None:
            self.ranges = opened(place)

        def read_at(self, offset: int, length: int) -> bytes:
            read.append(length)
            return self.ranges.read_at(offset, length)

    monkeypatch.setattr(Location, "open_ranges", lambda place: Counted(place))
    options = {"batch_size": 10, "lanes": 4, "shuffle_window": 80, "cache": "none"}
    with Stream(made.shard_set, world=World(size - 1, size), **options) as stream:
        batches = [next(stream).indices_n.tolist() for _ in range(60)]
    for number in range(0, 60, 7):
        read.clear()
        start = 10 * number
        with Stream(
            made.shard_set, world=World(size - 1, size), start=start, prefetch_batches=2, **options
        ) as stream:
            assert next(stream).indices_n.tolist() == batches[number]
        assert 0 < sum(read) <= 80 * sample_bytes


def test_threads_that_ask_at_once_get_the_same_order() -> None:
    shared = order_of((500, 300, 3000), 8, 64)
    starts = list(range(0, 8000, 16))
    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda start: shared.batch(start, 16)[0].tolist(), starts))
    alone = order_of((500, 300, 3000), 8, 64)
    assert together == [alone.batch(start, 16)[0].tolist() for start in starts]


def test_what_an_order_remembers_does_not_grow_with_epochs() -> None:
    order = order_of((40,) * 30, 4, 64)
    for start in range(0, 40 * 1200, 640):
        order.batch(start, 64)
    kinds = [key[0] for key in order._memo]
    assert (kinds.count("block"), kinds.count("layout")) == (8, 2)


def test_the_order_of_this_version_is_what_it_was() -> None:
    """A stored position means the same samples for ever; a change needs a new ORDER_VERSION."""
    digest = hashlib.sha256()
    for counts in ((5,), (1, 1, 1), (100, 1, 37), (1000, 3000, 500)):
        for lanes, window in ((1, 1), (64, 16_384), (16, 256), (7, 100)):
            order = order_of(counts, lanes, window, seed=3)
            indices = order.indices(np.arange(3 * sum(counts)))
            digest.update(indices.astype("<i8").tobytes())
    assert digest.hexdigest() == GOLDEN[ORDER_VERSION]
