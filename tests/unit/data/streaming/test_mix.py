"""Mixes are exact at every prefix, and a pure function of position."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.config import parse
from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.data import DataConfig, Stream
from distgen.data.config import open_data
from distgen.data.streaming.mix import MAX_WEIGHTS, ChosenOrder, MixOrder, block_counts, schedule
from distgen.data.streaming.mixed import MixedSet, mix, open_order
from distgen.data.streaming.order import Order
from distgen.data.view import FilterConfig, by_class, choose
from tests.unit.data.conftest import Made

NUMBERS = st.lists(st.integers(1, 30), min_size=1, max_size=9)


def mix_order(weights: list[Fraction], seed: int = 0) -> MixOrder:
    """Sets of 20, 21, ... samples; indices tell the set by their thousands."""
    orders = tuple(
        ChosenOrder(Order((20 + number,), f"f{number}", seed=seed), first=1000 * number)
        for number in range(len(weights))
    )
    return MixOrder(orders, tuple(weights), "f", seed)


@given(NUMBERS, st.integers(0, 5))
def test_every_prefix_of_a_plan_is_exact_to_one_sample(counts: list[int], seed: int) -> None:
    plan = schedule(counts, seed)
    length = sum(counts)
    assert np.bincount(plan, minlength=len(counts)).tolist() == counts
    prefixes = np.arange(1, length + 1)
    for number, count in enumerate(counts):
        # In whole numbers: |had - p * count / length| < 1.
        difference = np.cumsum(plan == number) * length - prefixes * count
        assert np.abs(difference).max() < length


@pytest.mark.parametrize(
    "weights", [(2, 1), (1, 1, 1), (7, Fraction(1, 3), 2), (Fraction(1, 9), 5)]
)
def test_a_mix_is_exact_over_the_borders_of_its_blocks(weights: tuple[Any, ...]) -> None:
    fractions = [Fraction(weight) for weight in weights]
    positions = np.arange(2 * sum(block_counts(fractions)) + 500)
    drawn = mix_order(fractions).indices(positions) // 1000
    common = block_counts(fractions)
    for number, count in enumerate(common):
        difference = np.cumsum(drawn == number) * sum(common) - (positions + 1) * count
        assert np.abs(difference).max() < sum(common)


def test_each_set_of_a_mix_goes_through_its_own_order() -> None:
    order = mix_order([Fraction(2), Fraction(1)])
    drawn = order.indices(np.arange(40_000))
    for number in range(2):
        own = drawn[drawn // 1000 == number]
        expected = order.orders[number].indices(np.arange(len(own)))
        assert own.tolist() == expected.tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_ranks_do_not_change_a_mix(size: int) -> None:
    weights = [Fraction(3), Fraction(1, 2), Fraction(1)]
    start, batch_size = 16_380, 37  # over the border of a block
    whole, _ = mix_order(weights).batch(start, batch_size)
    joined = np.full(batch_size, -1)
    order = mix_order(weights)
    for rank in range(size):
        part, ones = order.batch(start, batch_size, World(rank, size))
        joined[rank::size] = part
        assert ones.tolist() == [1.0] * len(part)
    assert joined.tolist() == whole.tolist()


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 1, 1, 1), (7, 1)])
def test_every_rank_sees_every_set_as_often(weights: tuple[int, ...]) -> None:
    order = mix_order([Fraction(weight) for weight in weights])
    drawn = order.indices(np.arange(50_000)) // 1000
    for size in (2, 4):
        for rank in range(size):
            shares = np.bincount(drawn[rank::size]) / len(drawn[rank::size])
            assert shares == pytest.approx(np.array(weights) / sum(weights), abs=0.03)


def test_the_plan_of_a_version_never_changes() -> None:
    order = mix_order([Fraction(2), Fraction(1), Fraction(1, 2)], seed=7)
    drawn = order.indices(np.arange(30_000)).astype("<i8")
    digest = hashlib.sha256(drawn.tobytes()).hexdigest()[:16]
    assert digest == "d3133011b9d64b5a"


def test_weights_that_cannot_be_exact_are_refused() -> None:
    assert block_counts([Fraction("0.5"), Fraction("0.25")])[0] == 2 * 5462
    with pytest.raises(UsageError, match="too uneven"):
        block_counts([Fraction(MAX_WEIGHTS), Fraction(1)])
    with pytest.raises(UsageError, match="positive"):
        block_counts([Fraction(1), Fraction(0)])
    with pytest.raises(UsageError, match="epoch_end=pad"):
        MixOrder(mix_order([Fraction(1)] * 2).orders, (Fraction(1),) * 2, "f", epoch_end="pad")


# ---------------------------------------------------------------- sets


@pytest.fixture
def two(make: Callable[..., Made]) -> tuple[Made, Made]:
    """Two sets of 30 and 47 samples."""
    return make(20, 10, name="one"), make(20, 27, name="two")


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_a_stream_of_a_mix_gives_the_pictures_of_its_sets(
    two: tuple[Made, Made], cache: Any
) -> None:
    mixed = mix([(two[0].shard_set, 2), (two[1].shard_set, 0.5)])
    images = np.concatenate([made.images_nhwc for made in two])
    labels = np.concatenate([made.labels_n for made in two])
    counts = np.zeros(2, int)
    with Stream(mixed, batch_size=10, cache=cache) as stream:
        for batch in islice(stream, 30):
            assert (batch.images_nhwc == images[batch.indices_n]).all()
            assert batch.labels_n.tolist() == labels[batch.indices_n].tolist()
            counts += np.bincount(batch.indices_n >= 30, minlength=2)
            state = stream.state_dict()
        assert counts.tolist() == [240, 60]
        following = next(stream).indices_n.tolist()
    with Stream(mixed, batch_size=10, cache=cache) as resumed:
        resumed.load_state_dict(state)
        assert next(resumed).indices_n.tolist() == following


def test_a_set_alone_is_ordered_as_ever(made: Made) -> None:
    plain = Order((20, 3, 27), made.shard_set.fingerprint, seed=3)
    positions = np.arange(120)
    assert open_order(made.shard_set, seed=3).indices(positions).tolist() == (
        plain.indices(positions).tolist()
    )
    alone = mix([(made.shard_set, 5)])
    assert open_order(alone, seed=3).indices(positions).tolist() == (
        plain.indices(positions).tolist()
    )


def test_a_filter_leaves_its_samples_exactly_once_per_epoch(made: Made) -> None:
    chosen = mix([(made.shard_set, 1)], wanted=FilterConfig(classes=("a", "c")))
    expected = np.flatnonzero(made.labels_n != 1).tolist()
    with Stream(chosen, batch_size=7, epochs=1, epoch_end="pad") as stream:
        seen = [i for b in stream for i, w in zip(b.indices_n, b.weights_n, strict=True) if w]
    assert sorted(seen) == expected
    assert seen != expected
    assert chosen.fingerprint != made.shard_set.fingerprint
    other = mix([(made.shard_set, 1)], wanted=FilterConfig(classes=("a",)))
    assert other.fingerprint != chosen.fingerprint


def test_a_filter_by_size_reads_the_index(made: Made) -> None:
    assert choose(made.shard_set, FilterConfig(min_size=4)).places.tolist() == list(range(50))
    with pytest.raises(UsageError, match="leaves none of the 50 samples"):
        choose(made.shard_set, FilterConfig(min_size=5))
    with pytest.raises(UsageError, match="no class 'd'"):
        choose(made.shard_set, FilterConfig(classes=("d",)))


def test_views_of_shards_without_a_sample_can_be_ordered(make: Callable[..., Made]) -> None:
    made = make(5, 1, 5, 1, 5)
    view = choose(made.shard_set, FilterConfig(classes=("b",)))
    assert sum(view.shard_samples) == int((made.labels_n == 1).sum())
    assert min(view.shard_samples) > 0


def test_balanced_classes_come_equally_often_at_every_prefix(made: Made) -> None:
    balanced = mix([(made.shard_set, 1)], balance_classes=True)
    assert [part.view.places.tolist() for part in balanced.parts] == [
        np.flatnonzero(made.labels_n == label).tolist() for label in range(3)
    ]
    with Stream(balanced, batch_size=8) as stream:
        labels = np.concatenate([batch.labels_n for batch in islice(stream, 40)])
    for end in range(1, len(labels)):
        counts = np.bincount(labels[:end], minlength=3)
        assert np.abs(counts - end / 3).max() < 1


def test_balance_goes_with_weights_and_filters(two: tuple[Made, Made]) -> None:
    mixed = mix(
        [(two[0].shard_set, 3), (two[1].shard_set, 1)],
        wanted=FilterConfig(classes=("a", "b")),
        balance_classes=True,
    )
    assert [part.weight for part in mixed.parts] == [Fraction(3, 2)] * 2 + [Fraction(1, 2)] * 2
    with Stream(mixed, batch_size=16) as stream:
        labels = np.concatenate([batch.labels_n for batch in islice(stream, 10)])
    assert np.bincount(labels).tolist() == [80, 80]


def test_a_mix_is_another_one_with_other_weights_or_sets(two: tuple[Made, Made]) -> None:
    first, second = (made.shard_set for made in two)
    whole = [((first, 1), (second, 1)), ((first, 2), (second, 1)), ((second, 1), (first, 1))]
    assert len({mix(weighted).fingerprint for weighted in whole}) == 3


def test_sets_that_differ_are_refused(make: Callable[..., Made]) -> None:
    first, large, colour = make(5), make(5, name="large", side=6), make(5, name="rgb", mode="RGB")
    with pytest.raises(UsageError, match="differ in size: 4x4 and 6x6"):
        mix([(first.shard_set, 1), (large.shard_set, 1)])
    with pytest.raises(UsageError, match="differ in mode: L and RGB"):
        mix([(first.shard_set, 1), (colour.shard_set, 1)])


def test_samples_without_a_class_cannot_be_balanced(made: Made, monkeypatch: Any) -> None:
    labels = np.where(np.arange(50) < 4, -1, 0)
    monkeypatch.setattr("distgen.data.view._columns", lambda *_: [labels])
    with pytest.raises(UsageError, match="4 of 50 samples have no class"):
        by_class(choose(made.shard_set, FilterConfig()))


def test_the_data_section_opens_sets_mixes_and_filters(two: tuple[Made, Made]) -> None:
    folders = [str(made.folder) for made in two]

    def opened(**section: Any) -> Any:
        return open_data(parse(DataConfig, section, "job.yaml"))

    assert opened(shards=folders[0]).fingerprint == two[0].shard_set.fingerprint
    mixed = opened(mix=[{"shards": folders[0], "weight": 2}, {"shards": folders[1]}])
    assert isinstance(mixed, MixedSet)
    assert [part.weight for part in mixed.parts] == [2, 1]
    config = parse(DataConfig, {"mix": [{"shards": folders[1]}]}, "job.yaml")
    assert config.shards == folders[1]
    assert len(opened(shards=folders[0], balance="classes").parts) == 3
    assert len(opened(shards=folders[0], filter={"classes": ["a"]}).parts) == 1
    for section, words in (
        ({}, "shards: this key is required"),
        ({"shards": "x", "filter": {"clases": ["a"]}}, "did you mean 'classes'"),
        ({"mix": [{"shards": "x", "weight": 0}]}, "weight"),
    ):
        with pytest.raises(UsageError) as error:
            parse(DataConfig, section, "job.yaml")
        assert words in str(error.value)
