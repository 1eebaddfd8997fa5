"""inspect, verify and preview tell the truth about a set."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from distgen.core.errors import DataError, UsageError
from distgen.data.index import IndexReader
from distgen.data.inspect import inspect, preview, verify

from .conftest import Made


def test_inspect_counts_and_measures(make: Callable[..., Made]) -> None:
    for mode in ("L", "RGB"):
        made = make(30, 12, name=mode, mode=mode)
        summary = inspect(made.shard_set)
        assert (summary.samples, summary.shards, summary.pictures_measured) == (42, 2, 42)
        counts = np.bincount(made.labels_n, minlength=3).tolist()
        assert list(summary.classes.values()) == counts
        channels = made.images_nhwc.reshape(-1, made.images_nhwc.shape[-1])
        assert np.allclose(summary.mean, channels.mean(axis=0), atol=1e-3)
        assert np.allclose(summary.std, channels.std(axis=0), atol=1e-3)
        assert inspect(made.shard_set, pictures=10).pictures_measured == 10


def test_verify_finds_nothing_in_a_sound_set(made: Made) -> None:
    told: list[tuple[int, int]] = []
    verdict = verify(made.shard_set, lambda done, total: told.append((done, total)))
    assert verdict.ok
    assert (verdict.shards, verdict.samples) == (3, 50)
    assert told[-1] == (verdict.bytes, verdict.bytes)
    verdict.raise_if_bad()


@pytest.mark.parametrize("field", ["cls", "png"])
def test_verify_names_the_sample_whose_byte_was_flipped(made: Made, field: str) -> None:
    row = IndexReader(made.shard_set).table(1).to_pylist()[2]
    path = made.shard_set.shard(1).local
    assert path is not None
    data = bytearray(path.read_bytes())
    data[row[f"{field}.offset"]] ^= 1
    path.write_bytes(data)
    verdict = verify(made.shard_set)
    assert [problem.key for problem in verdict.problems] == [row["key"]]
    with pytest.raises(DataError) as error:
        verdict.raise_if_bad()
    text = str(error.value)
    assert path.name in text
    assert f"bytes {row[f'{field}.offset']} to" in text
    assert "distgen data build" in text


def test_verify_finds_a_flipped_bit_anywhere(made: Made) -> None:
    path = made.shard_set.shard(1).local
    assert path is not None
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert not verify(made.shard_set).ok


def test_verify_names_missing_and_cut_files(made: Made) -> None:
    first, last = made.shard_set.shard(0).local, made.shard_set.shard(2).local
    assert first is not None
    assert last is not None
    first.unlink()
    last.write_bytes(last.read_bytes()[:-512])
    index = made.folder / "index.parquet"
    index.write_bytes(index.read_bytes()[:-1])
    problems = [str(problem) for problem in verify(made.shard_set).problems]
    assert len(problems) == 3
    assert "index.parquet: its SHA-256 differs" in problems[0]
    assert f"{first.name}: the shard is missing" in problems[1]
    assert "instead of" in problems[2]
    index.unlink()
    assert "the index is missing" in str(verify(made.shard_set).problems[0])


def test_preview_shows_one_row_for_each_class(made: Made) -> None:
    sheet = Image.open(io.BytesIO(preview(made.shard_set, columns=5)))
    tile = 64 + 4
    assert sheet.height == 4 + 3 * tile
    assert sheet.width >= 5 * tile
    first = np.flatnonzero(made.labels_n == 1)[0]
    left = sheet.width - 5 * tile
    shown = np.asarray(sheet.convert("L"))[4 + tile :: 16, left::16][:4, :4]
    assert (shown == made.images_nhwc[first, :, :, 0]).all()


def test_preview_shows_one_class_or_refuses(made: Made) -> None:
    sheet = Image.open(io.BytesIO(preview(made.shard_set, columns=2, rows=2, label="b")))
    assert sheet.size == (4 + 2 * 68, 4 + 2 * 68)
    with pytest.raises(UsageError, match="no class 'd'"):
        preview(made.shard_set, label="d")
    for columns, rows in ((0, 1), (10**6, 10**6)):
        with pytest.raises(UsageError, match="cannot be made"):
            preview(made.shard_set, columns=columns, rows=rows)
