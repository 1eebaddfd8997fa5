"""Parquet files as sources: whose columns, which rows, in what memory."""

from __future__ import annotations

import csv
import io
import itertools
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distgen.core.errors import DataError, UsageError
from distgen.data import open_shard_set, read_samples, splits_of
from distgen.data.building import build
from distgen.data.building.sources import SourceOptions, chosen, chunk_end, open_source
from distgen.data.building.survey import parts_of
from distgen.data.index import IndexReader

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(value: int, kind: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, (value % 256, value // 256, 9)).save(file, kind)
    return file.getvalue()


def hugging_face(table: pa.Table, **features: object) -> pa.Table:
    told = {"info": {"features": features}}
    return table.replace_schema_metadata({"huggingface": json.dumps(told)})


def write(path: Path, columns: dict[str, Any], rows_in_group: int = 7, **features: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    table = hugging_face(table, **features) if features else table
    pq.write_table(table, path, row_group_size=rows_in_group)
    return path


def pictures(values: Sequence[int | None], *, struct: bool) -> pa.Array:
    data = [None if value is None else encoded(value) for value in values]
    if not struct:
        return pa.array(data, pa.binary())
    rows = [None if each is None else {"bytes": each, "path": "x.png"} for each in data]
    return pa.array(rows, STRUCT)


def values_and_labels(folder: Path) -> dict[int, int]:
    """Label of each picture of a set, by the value that it was made with."""
    shard_set = open_shard_set(str(folder))
    images_nhwc, labels_n = read_samples(shard_set, np.arange(shard_set.num_samples))
    values = images_nhwc[:, 0, 0].astype(int) @ (1, 256, 0)
    return dict(zip(values.tolist(), labels_n.tolist(), strict=True))


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("struct", [False, True])
def test_every_row_becomes_its_picture_with_its_label(tmp_path: Path, struct: bool) -> None:
    values = list(range(300))
    labels = [value % 3 for value in values]
    columns = {"image": pictures(values, struct=struct), "label": labels}
    path = write(tmp_path / "some.parquet", columns, rows_in_group=50)
    built = build(str(path), tmp_path / "set")
    assert built.manifests[None].name == "some"
    assert built.manifests[None].image.classes == ("0", "1", "2")
    assert values_and_labels(tmp_path / "set") == dict(zip(values, labels, strict=True))


def test_class_names_come_from_the_metadata_of_datasets(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"pic": pictures([1, 2, 3], struct=True), "label": [1, -1, 0]},
        pic={"_type": "Image"},
        label={"_type": "ClassLabel", "names": ["cat", "dog", "owl"]},
    )
    built = build(str(path), tmp_path / "set")
    assert built.manifests[None].image.classes == ("cat", "dog", "owl")
    assert values_and_labels(tmp_path / "set") == {1: 1, 2: -1, 3: 0}
    other = {"pic": pictures([1], struct=True), "label": [5]}
    write(path, other, label={"_type": "ClassLabel", "names": ["cat", "dog"]})
    with pytest.raises(DataError, match="Class 5 is outside the 2 classes"):
        open_source(str(path))


NAMED = {"names": ["x", "y"]}


@pytest.mark.parametrize(
    ("columns", "features", "classes"),
    [
        ({"label": ["b", "a", None]}, {}, ("a", "b")),
        ({"class": pa.array(["b", "a", "a"]).dictionary_encode()}, {}, ("a", "b")),
        ({"fine_label": [2, 0, 0], "coarse_label": [0, 0, 0]}, {}, ("0", "1", "2")),
        ({"other": [0, 1, 1]}, {}, ()),
        ({"other": [0, 1, 1]}, {"other": NAMED}, ("x", "y")),
        ({"one": [0, 1, 1], "two": [1, 1, 1]}, {"one": NAMED, "two": NAMED}, ()),
        ({"label": [0.5, 1.5, 1.0]}, {}, ()),
        ({"label": [True, False, True]}, {}, ("0", "1")),
        ({"label": ["7", "007", "1"]}, {}, tuple("01234567")),
    ],
)
def test_classes_are_found_by_the_rule(
    tmp_path: Path, columns: dict[str, Any], features: dict[str, Any], classes: tuple[str, ...]
) -> None:
    columns = {"image": pictures([1, 2, 3], struct=False), **columns}
    path = write(tmp_path / "a.parquet", columns, **features)
    assert open_source(str(path)).classes == classes


def test_columns_can_be_named(tmp_path: Path) -> None:
    columns = {
        "image": pictures([1, 2], struct=True),
        "mask": pictures([3, 4], struct=False),
        "a.b": ["u", "v"],
    }
    path = str(write(tmp_path / "a.parquet", columns))
    with pytest.raises(UsageError, match="2 columns could be the pictures: image, mask") as error:
        build(path, tmp_path / "set")
    assert "--image-column image" in str(error.value)
    build(path, tmp_path / "set", options=SourceOptions("mask", "a.b"))
    assert values_and_labels(tmp_path / "set") == {3: 0, 4: 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SourceOptions(image_column="imgae"), "did you mean 'image'?"),
        (SourceOptions(image_column="label"), "its type is int64"),
        (SourceOptions(label_column="labl"), "did you mean 'label'?"),
        (SourceOptions(label_column="image"), "holds no classes"),
        (SourceOptions(label_key="k"), "--label-key is for tars, and the source is Parquet files"),
        (SourceOptions(picture="png"), "--picture is for tars"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    tmp_path: Path, options: SourceOptions, words: str
) -> None:
    columns = {"image": pictures([1, 2], struct=False), "label": [0, 1]}
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(UsageError) as error:
        build(str(path), tmp_path / "set", options=options)
    assert words in str(error.value)
    assert not (tmp_path / "set").exists()


def test_without_a_column_of_pictures_all_columns_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"path": ["a.png"], "pixels": [[1, 2, 3]]})
    with pytest.raises(UsageError, match="No column") as error:
        build(str(path), tmp_path / "set")
    assert "path (string), pixels (list<" in str(error.value)


def test_rows_without_a_picture_are_listed_by_group_and_row(tmp_path: Path) -> None:
    rows = [{"bytes": encoded(n), "path": None} for n in range(10)]
    rows[8] = {"bytes": None, "path": "far/away.png"}
    rows[9]["bytes"] = b"text"
    array = pa.array([None, *rows[1:]], STRUCT)
    path = write(tmp_path / "data" / "a.parquet", {"image": array})
    (path.parent / "notes.txt").write_text("not Parquet")
    built = build(str(path.parent), tmp_path / "set")
    assert (built.num_samples, built.rejected) == (7, 4)
    reasons = rejected(tmp_path / "set")
    assert "null" in reasons[f"{path}#0/0"]
    assert "it is a path" in reasons[f"{path}#1/1"]
    assert "not a picture" in reasons[f"{path}#1/2"]
    assert "it is none" in reasons[str(path.parent / "notes.txt")]


def test_files_called_after_splits_are_splits(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    for name, values in (
        ("data/train-00000-of-00002", [1, 2]),
        ("data/train-00001-of-00002", [3]),
        ("data/validation-00000-of-00001", [4]),
        ("test/0000", [5]),
    ):
        columns = {"image": pictures(values, struct=True), "label": [0] * len(values)}
        write(folder / f"{name}.parquet", columns)
    (folder / "README.md").write_text("read me")
    built = build(str(folder), tmp_path / "set")
    assert splits_of(str(tmp_path / "set")) == ("train", "test", "val")
    found = {
        split: sorted(values_and_labels(tmp_path / "set" / split)) for split in built.manifests
    }
    assert found == {"train": [1, 2, 3], "test": [5], "val": [4]}
    with pytest.raises(UsageError, match="splits of its own"):
        build(str(folder), tmp_path / "other", split=0.1)
    (folder / "data" / "extra.parquet").write_bytes((folder / "test" / "0000.parquet").read_bytes())
    assert open_source(str(folder)).splits == ()


def test_row_groups_are_mixed_and_rows_in_them_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": pictures(range(140), struct=False)}, 7)
    items = open_source(str(path)).items(None)
    rows = [item.origin.rpartition("#")[2].split("/") for item in items]
    groups = [int(group) for group, _ in rows]
    assert [int(row) for _, row in rows] == list(range(7)) * 20
    assert groups != sorted(groups)
    assert sorted(groups) == [group for group in range(20) for _ in range(7)]


def test_a_split_by_hash_moves_no_row_when_a_file_is_added(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "src" / f"{name}.parquet", {"image": pictures(range(40), struct=False)})
        build(str(tmp_path / "src"), tmp_path / name, split=0.4)
    keys = {}
    for name in ("a", "b"):
        for split in ("train", "test"):
            table = IndexReader(open_shard_set(str(tmp_path / name / split))).table(0, ["key"])
            keys[name, split] = set(table.column("key").to_pylist())
    assert keys["a", "train"] < keys["b", "train"]
    assert keys["a", "test"] < keys["b", "test"]
    assert not keys["b", "train"] & keys["b", "test"]


def test_the_same_rows_give_the_same_bytes_with_any_workers(tmp_path: Path) -> None:
    columns = {"image": pictures(range(90), struct=True), "label": [0] * 90}
    path = write(tmp_path / "a.parquet", columns, rows_in_group=40)
    for workers in (1, 3):
        build(str(path), tmp_path / str(workers), workers=workers, shard_samples=20, split=0.3)
    one, three = (
        {file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in ("1", "3")
    )
    assert "train-000002.tar" in one
    assert one == three


@pytest.mark.parametrize("cut", [0, 3, 100, -5])
def test_a_damaged_file_is_named(tmp_path: Path, cut: int) -> None:
    whole = write(tmp_path / "a.parquet", {"image": pictures(range(9), struct=False)}).read_bytes()
    bad = tmp_path / "b.parquet"
    bad.write_bytes(whole[:cut])
    with pytest.raises(DataError, match="A Parquet file cannot be read") as error:
        build(str(tmp_path), tmp_path / "set")
    assert str(bad) in str(error.value)


def test_a_page_that_changed_ends_the_build_by_name(tmp_path: Path) -> None:
    table = pa.table({"image": pictures(range(40), struct=False)})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[900] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read") as error:
        build(str(path), tmp_path / "set", size=4, mode="RGB")
    assert str(path) in str(error.value)


def test_files_with_other_columns_or_classes_are_named(tmp_path: Path) -> None:
    names = {"_type": "ClassLabel", "names": ["x"]}
    columns = {"image": pictures([1], struct=False), "label": [0]}
    write(tmp_path / "a.parquet", columns, label=names)
    write(tmp_path / "b.parquet", columns)
    with pytest.raises(DataError, match="other classes") as error:
        open_source(str(tmp_path))
    assert "b.parquet" in str(error.value)
    write(tmp_path / "b.parquet", {"img": columns["image"], "label": [0]}, label=names)
    with pytest.raises(UsageError, match="no column 'image'") as error:
        open_source(str(tmp_path))
    assert "b.parquet" in str(error.value)


def test_a_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    data = [encoded(n) + noise.bytes(100_000) for n in range(400)]
    path = tmp_path / "a.parquet"
    columns = {"image": pa.array(data, pa.binary())}
    pq.write_table(pa.table(columns), path, data_page_size=1 << 18, write_batch_size=8)
    read = 0
    del data, columns
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for item in open_source(str(path)).items(None):
        read += len(item.load())
        most = max(most, pool.bytes_allocated() - before)
    assert read > 40_000_000
    assert most < 16_000_000


def test_many_rows_are_split_with_progress_and_not_made_at_once(tmp_path: Path) -> None:
    count = 10_000
    columns = {"image": pa.array([b"x"] * count, pa.binary()), "label": np.arange(count) % 9}
    path = write(tmp_path / "a.parquet", columns, rows_in_group=1000)
    source = open_source(str(path))
    told: list[tuple[str, int, int]] = []
    tracemalloc.start()
    parts = parts_of(source, 0.25, lambda *each: told.append(each))
    # As objects they would be 5 MB.
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert told[0] == ("split", 4096, count)
    assert told[-1] == ("split", count, count)
    assert sum(len(items) for items in parts.values()) == count
    assert {item.label for item in parts["test"][:100]} == set(range(9))
    assert len(parts["test"]) == pytest.approx(count / 4, rel=0.1)


def test_what_is_worked_on_at_once_lies_in_one_row_group(tmp_path: Path) -> None:
    """Else every worker would read most row groups."""
    path = write(tmp_path / "a.parquet", {"image": pictures(range(200), struct=False)}, 25)
    items = open_source(str(path)).items(None)
    for part, chunks in ((items, 8), (chosen(items, np.arange(0, 200, 3)), 8)):
        ends = [0]
        while ends[-1] < len(part):
            ends.append(chunk_end(part, ends[-1]))
        assert len(ends) - 1 == chunks
        for begin, end in itertools.pairwise(ends):
            groups = {item.origin.rpartition("#")[2].split("/")[0] for item in part[begin:end]}
            assert len(groups) == 1
