"""A damaged sample fails, or is replaced by its neighbour, alike on any number of ranks."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from distgen.core.errors import DataError, UsageError
from distgen.core.world import World
from distgen.data import Stream, read_samples
from distgen.data.index import IndexReader
from distgen.data.streaming.bad import BadSample, Tolerance
from distgen.data.streaming.mixed import mix, open_order
from distgen.data.streaming.order import Order
from distgen.data.view import FilterConfig
from tests.unit.data.conftest import Made

BAD = (3, 31, 32, 49)
STANDS_IN = {3: 4, 31: 33, 32: 33, 49: 0}


def damage(made: Made, *indices: int) -> None:
    """Flip one bit of each of these samples."""
    for index in indices:
        shard = int(np.searchsorted(made.shard_set.starts, index, side="right")) - 1
        row = index - int(made.shard_set.starts[shard])
        offset = int(IndexReader(made.shard_set).rows(shard).offset[row])
        path = made.shard_set.shard(shard).local
        assert path is not None
        data = bytearray(path.read_bytes())
        data[offset + 20] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_next_sound_sample_comes_in_its_place(made: Made, cache: str, size: int) -> None:
    damage(made, *BAD)
    told: list[BadSample] = []
    streams = [
        Stream(
            made.shard_set,
            batch_size=6,
            world=World(rank, size),
            cache=cache,  # type: ignore[arg-type]
            on_error="substitute",
            bad_budget=4,
            on_bad=told.append,
        )
        for rank in range(size)
    ]
    order = Order((20, 3, 27), made.shard_set.fingerprint)
    for number in range(20):
        expected, _ = order.batch(6 * number, 6)
        for rank, stream in enumerate(streams):
            batch = next(stream)
            mine = expected[rank::size]
            assert batch.indices_n.tolist() == mine.tolist()
            given = [STANDS_IN.get(index, index) for index in mine.tolist()]
            assert (batch.images_nhwc == made.images_nhwc[given]).all()
            assert batch.labels_n.tolist() == made.labels_n[given].tolist()
    for stream in streams:
        stream.close()
    assert {sample.index for sample in told} == set(BAD)
    assert len(told) == len(BAD) or size > 1
    found = {sample.index: sample for sample in told}
    assert found[31].shard == str(made.shard_set.shard(2))
    assert found[31].key == "sample-00031"
    assert "changed after they were written" in found[31].reason


@pytest.mark.parametrize(("classes", "balanced"), [(("a", "c"), False), (None, True)])
def test_what_a_filter_or_a_class_leaves_out_stands_in_for_nothing(
    made: Made, classes: tuple[str, ...] | None, balanced: bool
) -> None:
    damage(made, *range(0, 50, 4))
    mixed = mix(
        [(made.shard_set, 1)], wanted=FilterConfig(classes=classes), balance_classes=balanced
    )
    order = open_order(mixed)
    with Stream(mixed, batch_size=10, on_error="substitute", bad_budget=50) as stream:
        for number in range(10):
            wanted, _ = order.batch(10 * number, 10)
            batch = next(stream)
            if balanced:
                assert batch.labels_n.tolist() == made.labels_n[wanted].tolist()
            assert classes is None or set(batch.labels_n.tolist()) <= {0, 2}
            shown = [
                np.flatnonzero((made.images_nhwc == image).all((1, 2, 3)))[0]
                for image in batch.images_nhwc
            ]
            assert not set(shown) & set(range(0, 50, 4))


def test_more_damaged_samples_than_the_budget_are_fatal_and_named(made: Made) -> None:
    damage(made, *BAD)
    stream = Stream(made.shard_set, batch_size=10, on_error="substitute", bad_budget=3)
    with pytest.raises(DataError, match=r"4 samples are damaged.* no more than 3") as error:
        list(islice(stream, 8))
    assert f"{made.shard_set.shard(0)}, sample 'sample-00003': its " in str(error.value)
    assert error.value.exit_code == 2


def test_a_set_without_a_sound_sample_fails_in_every_thread(made: Made) -> None:
    damage(made, *range(50))
    for budget in (1, 1000):
        stream = Stream(made.shard_set, batch_size=50, on_error="substitute", bad_budget=budget)
        with pytest.raises(DataError, match=r"no more than 1 pass|damaged too"):
            next(stream)


def test_a_budget_is_a_count_or_a_share_rounded_up(made: Made) -> None:
    limits = [Tolerance("substitute", budget).limit(50) for budget in (0, 0.001, 0.5, 1, 7)]
    assert limits == [0, 1, 25, 1, 7]
    with pytest.raises(UsageError, match="did you mean 'substitute'"):
        Stream(made.shard_set, batch_size=5, on_error="substitue")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 or more"):
        Stream(made.shard_set, batch_size=5, bad_budget=float("nan"))


def test_what_is_no_damaged_sample_fails_always(made: Made) -> None:
    path = made.shard_set.shard(2).local
    assert path is not None
    path.unlink()
    stream = Stream(made.shard_set, batch_size=50, on_error="substitute", bad_budget=49)
    with pytest.raises(DataError, match="missing"):
        next(stream)


def test_who_wants_no_substitutes_gets_none(made: Made) -> None:
    damage(made, 31)
    with Stream(made.shard_set, batch_size=50, on_error="substitute", cache="memory") as held:
        next(held)
        # Not even those that another stream keeps in memory.
        with pytest.raises(DataError, match="checksum"):
            next(Stream(made.shard_set, batch_size=50, cache="memory"))
        with pytest.raises(DataError, match="checksum"):
            read_samples(made.shard_set, np.arange(50))


def test_samples_read_for_an_evaluation_are_replaced_alike_and_logged(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    damage(made, *BAD)
    images, labels = read_samples(
        made.shard_set, np.arange(50), tolerance=Tolerance("substitute", 4)
    )
    given = [STANDS_IN.get(index, index) for index in range(50)]
    assert (images == made.images_nhwc[given]).all()
    assert labels.tolist() == made.labels_n[given].tolist()
    assert sum("'sample-00031'" in record.getMessage() for record in caplog.records) == 1
