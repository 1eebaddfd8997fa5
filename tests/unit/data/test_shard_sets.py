"""Opening sets, and what is said where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distgen.core.errors import DataError, DistgenError, UsageError
from distgen.data import has_split, open_shard_set, splits_of
from distgen.data.index import IndexReader

from .conftest import Made


def test_a_set_says_what_it_is(made: Made) -> None:
    shard_set = open_shard_set(str(made.folder))
    assert shard_set.num_samples == 50
    assert shard_set.starts.tolist() == [0, 20, 23, 50]
    assert shard_set.manifest.fields == ("cls", "png")
    assert len(shard_set.fingerprint) == 64


def test_the_fingerprint_is_of_the_contents_alone(make: Callable[..., Made]) -> None:
    first, renamed = make(5, 7, name="one"), make(5, 7, name="two", split="train")
    other = make(7, 5, name="three")
    assert first.shard_set.fingerprint == renamed.shard_set.fingerprint
    assert first.shard_set.fingerprint != other.shard_set.fingerprint


def test_a_split_is_a_subfolder_or_the_set_itself(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    make(5, name="root/train", split="train")
    make(3, name="root/test", split="test")
    whole = make(4, name="whole")
    root = str(tmp_path / "root")
    assert splits_of(root) == ("train", "test")
    assert open_shard_set(root, "test").num_samples == 3
    assert open_shard_set(f"{root}/train").num_samples == 5
    assert open_shard_set(f"{root}/train", "train").num_samples == 5
    assert has_split(root, "test")
    assert not has_split(root, "val")
    assert open_shard_set(str(whole.folder), "train").num_samples == 4
    assert not has_split(str(whole.folder), "test")
    for url, split, words in (
        (root, None, "several shard sets: train, test"),
        (root, "tset", "did you mean 'test'"),
        (f"{root}/train", "test", "built as 'train'"),
        (str(whole.folder), "test", "--split"),
    ):
        with pytest.raises(UsageError) as error:
            open_shard_set(url, split)
        assert words in str(error.value)


def test_a_set_that_is_not_there_is_named_with_the_nearest(made: Made) -> None:
    wrong = made.folder.with_name("mad")
    with pytest.raises(UsageError, match="There is no shard set") as error:
        open_shard_set(str(wrong))
    assert f"did you mean '{made.folder}'" in str(error.value.remedy)
    assert "distgen data build" in str(error.value.remedy)
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match="is a file"):
        open_shard_set(str(made.folder / "manifest.json"))


def test_tars_without_a_manifest_are_an_unfinished_build(made: Made) -> None:
    (made.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"no manifest\.json") as error:
        open_shard_set(str(made.folder))
    assert str(made.folder) in str(error.value)
    assert "distgen data build" in str(error.value.remedy)
    assert error.value.exit_code == 2


def test_a_folder_of_pictures_is_not_a_set_yet(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder without") as error:
        open_shard_set(str(tmp_path))
    assert f"distgen data build {tmp_path}" in str(error.value.remedy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "a newer distgen"),
        ({"format_version": "1"}, "format version '1'"),
        ({"format": "zip"}, "its format is not"),
        ({"num_samples": 49}, "num_samples is not the sum"),
        ({"shards": []}, "num_samples is not the sum"),
        ({"colour": "blue"}, "colour"),
        ({"image": {"height": 0, "width": 4, "mode": "L"}}, "image.height"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(
    made: Made, change: dict[str, Any], words: str
) -> None:
    path = made.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError) as error:
        open_shard_set(str(made.folder))
    assert words in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["../x.tar", "/etc/x.tar", "a/b.tar", "x.zip", "pipe:ls.tar"])
def test_a_shard_outside_the_folder_is_refused(made: Made, name: str) -> None:
    path = made.folder / "manifest.json"
    raw = json.loads(path.read_text())
    raw["shards"][0]["name"] = name
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match="cannot be used"):
        open_shard_set(str(made.folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_a_manifest_that_is_not_json_is_named(made: Made, text: str) -> None:
    (made.folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be used"):
        open_shard_set(str(made.folder))


def test_a_lost_damaged_or_foreign_index_is_named(made: Made, make: Callable[..., Made]) -> None:
    other = make(50, name="other")
    path = made.folder / "index.parquet"
    whole = path.read_bytes()
    for content in (b"", whole[:-10], (other.folder / "index.parquet").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be used"):
            IndexReader(made.shard_set)
    path.unlink()
    with pytest.raises(DataError, match="lost its index"):
        IndexReader(made.shard_set)


def test_a_flipped_byte_in_the_index_never_gives_wrong_rows(made: Made) -> None:
    path = made.folder / "index.parquet"
    whole = path.read_bytes()
    index = IndexReader(made.shard_set)
    expected = [index.table(n).to_pylist() for n in range(3)]
    for place in range(4, len(whole), 29):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            index = IndexReader(open_shard_set(str(made.folder)))
            found = [index.table(n).to_pylist() for n in range(3)]
        except DistgenError:
            continue
        assert found == expected


def test_the_index_keeps_a_bounded_number_of_rows(made: Made) -> None:
    index = IndexReader(made.shard_set, cache_rows=25)
    for shard in (0, 1, 2, 0, 2):
        assert len(index.rows(shard).label) == made.shard_set.manifest.shards[shard].samples
        assert sum(len(rows.label) for rows in index._cached.values()) <= 27
