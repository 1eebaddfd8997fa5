"""The order of samples is a pure function of (fingerprint, seed, epoch, position)."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.data.streaming.order import EpochEnd, Order

SIZES = (1, 2, 3, 5, 8)


@st.composite
def orders(draw: st.DrawFn, epoch_end: EpochEnd = "carry") -> Order:
    return Order(
        tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))),
        fingerprint="f",
        seed=draw(st.integers(0, 3)),
        lanes=draw(st.integers(1, 80)),
        shuffle_window=draw(st.integers(1, 600)),
        shuffle=draw(st.booleans()),
        epoch_end=epoch_end,
    )


def fresh(order: Order) -> Order:
    """The same order without anything it remembers."""
    return Order(
        order.shard_samples,
        order.fingerprint,
        order.seed,
        order.lanes,
        order.shuffle_window,
        order.shuffle,
        order.epoch_end,
    )


@given(orders(), st.integers(0, 2000), st.integers(1, 64), st.sampled_from(SIZES))
def test_ranks_do_not_change_the_global_batch(
    order: Order, start: int, batch_size: int, size: int
) -> None:
    whole, _ = order.batch(start, batch_size)
    joined = np.full(batch_size, -1)
    for rank in range(size):
        part, weights = fresh(order).batch(start, batch_size, World(rank, size))
        joined[rank::size] = part
        assert len(weights) == len(part)
    assert joined.tolist() == whole.tolist()


@given(orders(), st.integers(1, 70), st.integers(1, 3))
def test_every_sample_comes_exactly_once_per_epoch(
    order: Order, batch_size: int, epochs: int
) -> None:
    total = order.num_samples
    batches = -(-epochs * total // batch_size)
    parts = [order.batch(number * batch_size, batch_size)[0] for number in range(batches)]
    assert {len(part) for part in parts} == {batch_size}
    sequence = np.concatenate(parts)
    for epoch in range(epochs):
        seen = sequence[epoch * total : (epoch + 1) * total]
        assert sorted(seen.tolist()) == list(range(total))


@given(orders(), st.integers(0, 5000), st.integers(1, 40), st.sampled_from(SIZES))
@settings(max_examples=60)
def test_resume_anywhere_on_other_ranks_equals_uninterrupted(
    order: Order, seen: int, batch_size: int, size: int
) -> None:
    for position in range(seen, seen + 3 * batch_size, batch_size):
        uninterrupted, _ = order.batch(position, batch_size)
        resumed = fresh(order)
        for rank in range(size):
            part, _ = resumed.batch(position, batch_size, World(rank, size))
            assert part.tolist() == uninterrupted[rank::size].tolist()


@given(orders("pad"), st.integers(1, 70))
def test_padding_gives_every_sample_weight_one_once(order: Order, batch_size: int) -> None:
    per_epoch = order.batches_per_epoch(batch_size)
    for epoch in range(2):
        numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        parts = [order.batch(number * batch_size, batch_size) for number in numbers]
        indices = np.concatenate([part[0] for part in parts])
        weights = np.concatenate([part[1] for part in parts])
        assert sorted(indices[weights == 1].tolist()) == list(range(order.num_samples))
        assert len(indices) - order.num_samples < batch_size
        assert indices.min() >= 0
        assert indices.max() < order.num_samples


@given(orders("drop"), st.integers(1, 70))
def test_drop_leaves_out_less_than_a_batch_and_repeats_nothing(
    order: Order, batch_size: int
) -> None:
    if batch_size > order.num_samples:
        with pytest.raises(UsageError, match="larger than"):
            order.batches_per_epoch(batch_size)
        return
    per_epoch = order.batches_per_epoch(batch_size)
    for epoch in range(2):
        numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        parts = [order.batch(number * batch_size, batch_size)[0] for number in numbers]
        indices = np.concatenate(parts)
        assert len(set(indices.tolist())) == len(indices)
        assert order.num_samples - len(indices) < batch_size


@pytest.mark.parametrize("epoch_end", ["drop", "pad"])
def test_a_position_inside_a_batch_is_refused(epoch_end: EpochEnd) -> None:
    order = Order((10,), "f", epoch_end=epoch_end)
    with pytest.raises(UsageError, match="Position 3 is inside a batch of 4"):
        order.batch(3, 4)


def test_neighbours_of_a_lane_lie_in_one_window() -> None:
    """What a lane reads for one window is one contiguous range, so memory is O(window)."""
    total, lanes, window = 10_007, 16, 512
    order = Order((total,), "f", lanes=lanes, shuffle_window=window)
    depth = window // lanes
    for block in range(total // window + 1):
        positions = np.arange(block * window, min((block + 1) * window, total))
        indices = order.indices(positions)
        for lane in range(lanes):
            mine = np.sort(indices[positions % lanes == lane])
            gaps = np.diff(np.append(mine, mine[0] + total))
            # On the circle of all samples, everything but one gap is the lane's window.
            assert total - gaps.max() < depth


def test_a_rank_reads_only_its_own_lanes_where_ranks_divide_lanes() -> None:
    order = Order((4096,), "f", lanes=8, shuffle_window=1024)
    halves = [
        np.concatenate([order.batch(p, 64, World(rank, 2))[0] for p in range(0, 4096, 64)])
        for rank in range(2)
    ]
    runs = [np.count_nonzero(np.diff(np.sort(half)) > 1) for half in halves]
    assert max(runs) <= 8 // 2 + 1


def test_epochs_seeds_and_sets_differ() -> None:
    def first(seed: int, fingerprint: str, epoch: int) -> list[int]:
        order = Order((300, 200), fingerprint, seed=seed, lanes=8, shuffle_window=64)
        return order.indices(np.arange(epoch * 500, (epoch + 1) * 500)).tolist()

    variants = [first(0, "f", 0), first(0, "f", 1), first(1, "f", 0), first(0, "g", 0)]
    assert len({tuple(variant) for variant in variants}) == 4


def test_a_set_that_fits_the_window_is_shuffled_uniformly() -> None:
    order = Order((3, 2), "f", lanes=64, shuffle_window=16)
    firsts = np.bincount(order.indices(np.arange(2000) * 5), minlength=5)
    # 400 expected; six standard deviations are 107.
    assert (np.abs(firsts - 400) < 107).all()


def test_without_shuffling_samples_come_as_they_lie() -> None:
    order = Order((3, 4), "f", shuffle=False)
    assert order.indices(np.arange(9)).tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_any_position_of_a_trillion_samples_takes_a_megabyte_or_two() -> None:
    order = Order((10**9,) * 1000, "f")
    tracemalloc.start()
    for position in (0, 10**12 - 128, 7 * 10**12 + 12_345):
        indices, _ = order.batch(position, 256)
        assert len(set(indices.tolist())) == 256
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_order_version_1_is_what_it_was() -> None:
    """A stored position means the same samples for ever; a change needs a new ORDER_VERSION."""
    order = Order((1000, 37, 5000, 1), "0123456789abcdef", seed=7, lanes=16, shuffle_window=256)
    indices = order.indices(np.arange(2 * order.num_samples))
    digest = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
    assert digest == "9ba8cd905fdb414fcd92c5f9c4c278eeca2341edcd35698722745819accdca1b"
    small = Order((10, 20), "0123456789abcdef", seed=7)
    assert small.indices(np.arange(8)).tolist() == [15, 22, 9, 25, 21, 28, 6, 12]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lanes": 0}, "data.lanes is 0"),
        ({"shuffle_window": -1}, "data.shuffle_window is -1"),
        ({"epoch_end": "cary"}, "'cary' is unknown"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Order((5,), "f", **options)  # type: ignore[arg-type]
