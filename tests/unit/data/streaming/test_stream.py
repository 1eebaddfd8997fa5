"""Streams give the order's batches, whatever threads, ranks and caches do."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.config import parse
from distgen.core.errors import DataError, UsageError
from distgen.core.world import World
from distgen.data import DataConfig, Stream, open_shard_set, read_labels, read_samples
from distgen.data.formats.decode import BufferPool
from distgen.data.index import IndexReader
from distgen.data.streaming import stream as stream_module
from distgen.data.streaming.order import Order
from distgen.data.streaming.read import SampleReader, spans
from tests.unit.data.conftest import Made


def data_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("distgen-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    yield
    assert data_threads() == []


def flip(made: Made, index: int, field: str = "png") -> tuple[str, str, int, int]:
    """Flip one bit of a sample; returns its shard, key and byte range."""
    starts = made.shard_set.starts
    shard = int(np.searchsorted(starts, index, side="right")) - 1
    row = IndexReader(made.shard_set).table(shard).to_pylist()[index - int(starts[shard])]
    begin = row[f"{field}.offset"]
    path = made.shard_set.shard(shard).local
    assert path is not None
    data = bytearray(path.read_bytes())
    data[begin + row[f"{field}.size"] // 2] ^= 1
    path.write_bytes(data)
    return path.name, row["key"], begin, begin + row[f"{field}.size"]


@pytest.mark.parametrize(("side", "threads"), [(64, 1), (65, 3)])
def test_very_small_pictures_are_the_work_of_one_thread(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch, side: int, threads: int
) -> None:
    monkeypatch.setattr(stream_module, "SMALL_BYTES", 4096)
    made = make(40, side=side)
    with Stream(made.shard_set, batch_size=4, decode_threads=3, cache="none") as stream:
        list(islice(stream, 8))
        assert len(data_threads()) == threads


@pytest.mark.parametrize("cache", ["none", "memory", "auto"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_gives_the_pictures_of_the_order(made: Made, cache: Any, threads: int) -> None:
    options: dict[str, Any] = {"seed": 3, "lanes": 4, "shuffle_window": 16}
    order = Order((20, 3, 27), made.shard_set.fingerprint, **options)
    with Stream(
        made.shard_set, batch_size=8, cache=cache, decode_threads=threads, **options
    ) as stream:
        for number, batch in enumerate(islice(stream, 20)):
            indices, _ = order.batch(8 * number, 8)
            assert batch.indices_n.tolist() == indices.tolist()
            assert (batch.images_nhwc == made.images_nhwc[indices]).all()
            assert batch.labels_n.tolist() == made.labels_n[indices].tolist()
            assert batch.weights_n.tolist() == [1.0] * 8
            assert stream.position == 8 * (number + 1)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_ranks_share_the_same_global_batches(made: Made, size: int) -> None:
    with Stream(made.shard_set, batch_size=9) as stream:
        expected = [batch.indices_n for batch in islice(stream, 12)]
    streams = [Stream(made.shard_set, batch_size=9, world=World(r, size)) for r in range(size)]
    for indices in expected:
        joined = np.full(9, -1)
        for rank, part in enumerate(streams):
            joined[rank::size] = next(part).indices_n
        assert joined.tolist() == indices.tolist()
    for part in streams:
        part.close()


def test_resume_equals_uninterrupted_at_every_position(made: Made) -> None:
    with Stream(made.shard_set, batch_size=7) as stream:
        batches, states = [], []
        for batch in islice(stream, 18):
            states.append(stream.state_dict())
            batches.append(batch.indices_n.tolist())
    assert states[4] == {"images_seen": 35}
    for number in range(17):
        start = states[number]["images_seen"]
        with Stream(made.shard_set, batch_size=7, start=start) as resumed:
            assert next(resumed).indices_n.tolist() == batches[number + 1]
    with Stream(made.shard_set, batch_size=7) as moved:
        next(moved)
        moved.load_state_dict(states[9])
        assert next(moved).indices_n.tolist() == batches[10]
        assert moved.position == 77


def test_a_batch_that_is_held_is_never_overwritten(made: Made) -> None:
    held: list[tuple[Any, np.ndarray]] = []
    with Stream(made.shard_set, batch_size=8, prefetch_batches=2) as stream:
        for number, batch in enumerate(islice(stream, 60)):
            expected = made.images_nhwc[batch.indices_n]
            kept: Any = batch.images_nhwc
            if number % 3 == 1:
                kept = batch.images_nhwc[2:4]
                expected = expected[2:4]
            elif number % 3 == 2:
                kept = torch.from_numpy(batch.images_nhwc)
            held.append((kept, expected))
            del batch, kept
    gc.collect()
    for kept, expected in held:
        assert (np.asarray(kept) == expected).all()


def test_buffers_that_nobody_holds_are_used_again() -> None:
    pool = BufferPool(2)
    first = pool.take((4, 4))
    address = first.ctypes.data
    second = pool.take((4, 4))
    assert second.ctypes.data != address
    view = first[1:]
    del first
    assert pool.take((4, 4)).ctypes.data != address
    del view
    pool = BufferPool(2)
    third = pool.take((4, 4))
    address = third.ctypes.data
    del third
    assert pool.take((4, 4)).ctypes.data == address


@pytest.mark.parametrize(("epoch_end", "batches"), [("carry", 15), ("drop", 14), ("pad", 16)])
def test_a_stream_of_two_epochs_ends(made: Made, epoch_end: Any, batches: int) -> None:
    with Stream(made.shard_set, batch_size=7, epochs=2, epoch_end=epoch_end) as stream:
        parts = list(stream)
        assert len(parts) == batches
        assert {len(part) for part in parts} == {7}
        total = sum(float(part.weights_n.sum()) for part in parts)
        assert total == {"carry": 105, "drop": 98, "pad": 100}[epoch_end]
        with pytest.raises(StopIteration):
            next(stream)


def test_close_joins_the_threads_and_a_closed_stream_says_so(made: Made) -> None:
    stream = Stream(made.shard_set, batch_size=8, decode_threads=3, prefetch_batches=6)
    next(stream)
    assert data_threads()
    stream.close()
    assert data_threads() == []
    stream.close()
    with pytest.raises(UsageError, match="closed"):
        next(stream)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_a_flipped_byte_reaches_the_consumer_and_names_the_sample(made: Made, cache: Any) -> None:
    shard, key, begin, end = flip(made, 31)
    stream = Stream(made.shard_set, batch_size=8, epochs=1, cache=cache)
    with pytest.raises(DataError, match="does not match its checksum") as error:
        list(stream)
    text = str(error.value)
    for part in (shard, key, f"bytes {begin} to {end}", "distgen data verify"):
        assert part in text
    assert error.value.exit_code == 2
    assert data_threads() == []


def test_a_sample_of_another_size_names_itself(made: Made, make: Callable[..., Made]) -> None:
    large = make(20, 3, 27, name="large", side=6)
    raw = (made.folder / "manifest.json").read_text()
    text = (large.folder / "manifest.json").read_text()
    (large.folder / "manifest.json").write_text(
        text.replace('"height": 6', '"height": 4').replace('"width": 6', '"width": 4')
    )
    assert '"height": 4' in raw
    with pytest.raises(DataError, match="cannot be decoded") as error:
        read_samples(open_shard_set(str(large.folder)), np.arange(3))
    assert "6x6 pixels, not 4x4" in str(error.value)


def test_missing_and_cut_shards_are_named(made: Made) -> None:
    path = made.shard_set.shard(2).local
    assert path is not None
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    with pytest.raises(DataError, match="cut short") as error:
        read_samples(made.shard_set, np.arange(50))
    assert path.name in str(error.value)
    path.unlink()
    with pytest.raises(DataError, match="missing") as error:
        read_samples(made.shard_set, np.arange(50))
    assert path.name in str(error.value)
    assert "distgen data verify" in str(error.value.remedy)


def test_samples_are_read_in_the_order_of_their_indices(made: Made) -> None:
    indices = np.array([49, 0, 22, 22, 19, 20, 3])
    images_nhwc, labels_n = read_samples(made.shard_set, indices)
    assert (images_nhwc == made.images_nhwc[indices]).all()
    assert labels_n.tolist() == made.labels_n[indices].tolist()
    assert read_labels(made.shard_set).tolist() == made.labels_n.tolist()
    none, _ = read_samples(made.shard_set, np.array([], np.int64))
    assert none.shape == (0, 4, 4, 1)
    for wrong in (-1, 50):
        with pytest.raises(UsageError, match="has 50 samples"):
            read_samples(made.shard_set, np.array([0, wrong]))


def test_a_set_in_a_filesystem_without_pread_reads_the_same(made: Made) -> None:
    """What an object store goes through: pyarrow.fs and wide gaps."""
    from pyarrow import fs

    from distgen.core.storage import Location
    from distgen.data.index import ShardSet

    remote = fs.SubTreeFileSystem(str(made.folder.parent), fs.LocalFileSystem())
    place = Location(remote, made.folder.name, f"mock://{made.folder.name}")
    shard_set = ShardSet(place, made.shard_set.manifest)
    assert shard_set.location.local is None
    with Stream(shard_set, batch_size=8, cache="none", epochs=1) as stream:
        for batch in stream:
            assert (batch.images_nhwc == made.images_nhwc[batch.indices_n]).all()
    reader = SampleReader(shard_set)
    path = made.shard_set.shard(0).local
    assert path is not None
    path.unlink()
    with contextlib.closing(reader), pytest.raises(DataError, match="missing"):
        reader.encoded(np.array([0]))


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60)), max_size=30),
    st.integers(0, 50),
    st.integers(1, 300),
)
def test_spans_cover_every_range_and_little_else(
    ranges: list[tuple[int, int]], gap: int, longest: int
) -> None:
    offsets = np.array([r[0] for r in ranges], np.int64)
    sizes = np.array([r[1] for r in ranges], np.int64)
    found = spans(offsets, sizes, gap, longest)
    assert sorted(m for span in found for m in span.members) == list(range(len(ranges)))
    for span in found:
        assert span.stop - span.start <= max(longest, *(int(sizes[m]) for m in span.members))
        wanted = np.zeros(600, bool)
        for member in span.members:
            begin, size = ranges[member]
            assert span.start <= begin
            assert begin + size <= span.stop
            wanted[begin : begin + size] = True
        holes = np.split(~wanted[span.start : span.stop], np.flatnonzero(np.diff(wanted)) + 1)
        assert sum(hole.sum() for hole in holes) <= gap * len(span.members)
    for first, second in pairwise(found):
        assert first.start <= second.start


def test_impossible_streams_are_refused(made: Made) -> None:
    for options, words in (
        ({"batch_size": 2, "world": World(0, 3)}, "without an image"),
        ({"batch_size": 60, "epoch_end": "drop"}, "larger than the 50 samples"),
        ({"batch_size": 8, "cache": "tape"}, "'tape' is unknown"),
        ({"batch_size": 8, "start": -8}, "position -8"),
        ({"batch_size": 8, "start": 4, "epoch_end": "pad"}, "inside a batch"),
    ):
        with pytest.raises(UsageError) as error:
            Stream(made.shard_set, **options)  # type: ignore[arg-type]
        assert words in str(error.value)


def test_the_cache_is_used_only_within_its_budget(make: Callable[..., Made]) -> None:
    made = make(300, side=64)  # 1.2 MiB decoded
    for budget, expected in ((1, False), (2, True)):
        with Stream(made.shard_set, batch_size=100, cache_budget_mib=budget) as stream:
            for _ in range(3 + stream.ahead):
                next(stream)
            path = made.shard_set.shard(0).local
            assert path is not None
            hidden = path.rename(path.with_suffix(".hidden"))
            # The open file would still be readable: a new reader would not be.
            stream._loader._reader._files.clear()
            if expected:
                next(islice(stream, 20, None))
            else:
                with pytest.raises(DataError, match="missing"):
                    next(islice(stream, 20, None))
            hidden.rename(path)


def test_a_misspelt_key_of_the_data_section_is_named(tmp_path: Path) -> None:
    config = parse(DataConfig, {"shards": "x"}, "job.yaml")
    assert (config.lanes, config.shuffle_window, config.cache) == (64, 16_384, "auto")
    with pytest.raises(UsageError, match="did you mean 'lanes'"):
        parse(DataConfig, {"shards": "x", "lane": 3}, "job.yaml")
    with pytest.raises(UsageError, match="decode_threads"):
        parse(DataConfig, {"shards": "x", "decode_threads": 0}, "job.yaml")
