"""Tars of others and shard sets as sources."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distgen.core.errors import DataError, UsageError
from distgen.data import open_shard_set, read_samples
from distgen.data.building import build
from distgen.data.building.scan import index
from distgen.data.building.sources import SourceOptions, open_source
from distgen.data.index import IndexReader
from tests.unit.data.conftest import Made
from tests.unit.data.foreign_tars import labelled, messy, picture, turned, write_tar


def contents(folder: Path) -> dict[str, tuple[np.ndarray, int]]:
    """Picture and label of each key of a set."""
    shard_set = open_shard_set(str(folder))
    images_nhwc, labels_n = read_samples(shard_set, np.arange(shard_set.num_samples))
    reader = IndexReader(shard_set)
    keys: list[str] = []
    for shard in range(len(shard_set.manifest.shards)):
        keys += reader.table(shard, ["key"]).column("key").to_pylist()
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, zip(images_nhwc, labels_n.tolist(), strict=True), strict=True))


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(newline="", errors="surrogateescape") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_samples_of_messy_tars_become_pictures(tmp_path: Path, kind: str) -> None:
    for shard in range(3):
        write_tar(tmp_path / "src" / f"part.{shard}.tar", messy(shard), kind)
    (tmp_path / "src" / "notes.txt").write_text("no tar")
    built = build(str(tmp_path / "src"), tmp_path / "set")
    assert (built.num_samples, built.manifests[None].image.classes) == (21, ("0", "1", "2"))
    found = contents(tmp_path / "set").values()
    assert sorted((int(image[0, 0, 0]), label) for image, label in found) == [
        (10 * shard + number, number % 3) for shard in range(3) for number in range(7)
    ]
    reasons = rejected(tmp_path / "set")
    assert reasons.pop(str(tmp_path / "src" / "notes.txt")) == "the source is tars, and it is none"
    places = {f"{tmp_path}/src/part.{shard}.tar/README" for shard in range(3)}
    assert reasons == dict.fromkeys(places, "no member of this sample is a picture")


def test_what_cannot_be_streamed_is_built_as_the_error_says(tmp_path: Path) -> None:
    """Each of these makes `distgen data index` recommend `distgen data build` on the folder."""
    bad = {
        "clear": [("a.png", picture(mode="RGBA"))],
        "turned": [("a.png", turned())],
        "sizes": [("a.png", picture()), ("b.png", picture(size=(9, 9)))],
        "bitmaps": [("a.bmp", picture(format="BMP"))],
        "kinds": [("a.png", picture())] + [(f"a.k{number}", b"") for number in range(80)],
    }
    for name, members in bad.items():
        folder = tmp_path / name
        write_tar(folder / "a.tar", members)
        with pytest.raises(DataError) as error:
            index(folder)
        assert "distgen data build" in str(error.value.remedy)
        built = build(str(folder), tmp_path / f"{name}-set", size=8)
        assert built.num_samples == len(
            [key for key, _ in members if "." in key and "k" not in key]
        )
        assert built.rejected == 0


def test_classes_of_tars_come_as_with_index(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", labelled(["dog", "cat", None]))
    build(str(tmp_path / "src" / "a.tar"), tmp_path / "set")
    assert open_shard_set(str(tmp_path / "set")).spec.classes == ("cat", "dog")
    labels = {key.split("-")[1]: label for key, (_, label) in contents(tmp_path / "set").items()}
    assert labels == {"0": 1, "1": 0, "2": -1}
    texts = [json.dumps(value) for value in ({"kind": 1}, {"kind": 0}, {"other": 3})]
    write_tar(tmp_path / "src" / "a.tar", labelled(texts, "json"))
    options = SourceOptions(label_key="kind")
    built = build(str(tmp_path / "src"), tmp_path / "set", options=options, overwrite=True)
    assert built.manifests[None].image.classes == ("0", "1")


def test_of_several_pictures_one_has_to_be_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.left.png", picture(1)), ("a.right.tif", picture(2))])
    with pytest.raises(DataError, match="2 pictures") as error:
        build(str(path), tmp_path / "set")
    assert "--picture left.png" in str(error.value)
    build(str(path), tmp_path / "set", options=SourceOptions(picture=".Right.TIF"))
    ((image, _),) = contents(tmp_path / "set").values()
    assert image.max() == image.min() == 2
    with pytest.raises(UsageError, match="'txt' is no kind of picture"):
        build(str(path), tmp_path / "other", options=SourceOptions(picture="txt"))


def test_members_of_one_name_in_a_tar_are_different_pictures(tmp_path: Path) -> None:
    members = [("a.png", picture(1)), ("b.png", picture(2)), ("a.png", picture(3))]
    build(str(write_tar(tmp_path / "x.tar", members)), tmp_path / "set")
    images = sorted(int(image[0, 0, 0]) for image, _ in contents(tmp_path / "set").values())
    assert images == [1, 2, 3]


def test_runs_of_samples_are_mixed(tmp_path: Path) -> None:
    for shard in range(4):
        members = [(f"{number:04d}.png", b"x") for number in range(200)]
        write_tar(tmp_path / f"{shard}.tar", members)
    items = open_source(str(tmp_path)).items(None)
    assert len({item.key for item in items}) == len(items) == 800
    places = [item.origin.removeprefix(str(tmp_path)) for item in items]
    assert places != sorted(places)
    first = places[:8]
    assert first == sorted(first)


def test_tars_called_after_splits_are_splits(tmp_path: Path) -> None:
    for name, count in (("train-0", 4), ("train-1", 2), ("val-0", 3)):
        write_tar(tmp_path / "src" / f"{name}.tar", labelled(["0"] * count))
    built = build(str(tmp_path / "src"), tmp_path / "set")
    counts = {split: manifest.num_samples for split, manifest in built.manifests.items()}
    assert counts == {"train": 6, "val": 3}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.tar", b"", "it is empty"),
        ("a.tar", b"\x1f\x8b" + bytes(range(256)) * 4, "gzip -d"),
        ("a.tar", b"no tar at all" * 99, "it is no tar"),
        ("a.tar.gz", b"x", "gzip -d"),
        ("a.tgz", b"x", "compressed"),
        ("a.tar", write_tar, "cut short"),
    ],
)
def test_tars_that_cannot_be_used_are_named(
    tmp_path: Path, name: str, data: Any, words: str
) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    if callable(data):
        data = data(tmp_path / "whole.tar", labelled(["0", "1"])).read_bytes()[:2000]
    (folder / name).write_bytes(data)
    for source in (folder, folder / name):
        with pytest.raises((DataError, UsageError)) as error:
            build(str(source), tmp_path / "set")
        assert words in str(error.value)
        assert str(folder) in str(error.value)
    assert not (tmp_path / "set").exists()


def test_a_set_keeps_its_order_keys_and_labels(made: Made, tmp_path: Path) -> None:
    built = build(str(made.folder), tmp_path / "set", encoding="png", shard_samples=16)
    assert built.manifests[None].image == made.shard_set.spec
    found = contents(tmp_path / "set")
    assert list(found) == [f"sample-{row:05d}" for row in range(50)]
    images = np.stack([image for image, _ in found.values()])
    assert (images == made.images_nhwc).all()
    assert [label for _, label in found.values()] == made.labels_n.tolist()


def test_a_set_can_change_size_mode_and_splits(made: Made, tmp_path: Path) -> None:
    built = build(str(made.folder), tmp_path / "set", size=(9, 7), mode="RGB", split=0.3)
    assert list(built.manifests) == ["train", "test"]
    assert built.num_samples == 50
    spec = built.manifests["train"].image
    assert (spec.height, spec.width, spec.mode) == (9, 7, "RGB")
    parts = [set(contents(tmp_path / "set" / split)) for split in ("train", "test")]
    assert not parts[0] & parts[1]
    again = build(str(tmp_path / "set"), tmp_path / "again", size=4)
    assert {s: m.num_samples for s, m in again.manifests.items()} == {
        s: m.num_samples for s, m in built.manifests.items()
    }
    one = build(str(tmp_path / "set" / "test"), tmp_path / "one")
    assert list(one.manifests) == [None]


def test_a_set_can_be_replaced_by_what_is_made_of_it(made: Made, tmp_path: Path) -> None:
    before = contents(made.folder)
    build(str(made.folder), made.folder, size=8, overwrite=True)
    after = contents(made.folder)
    assert {key: label for key, (_, label) in after.items()} == {
        key: label for key, (_, label) in before.items()
    }
    assert after["sample-00000"][0].shape == (8, 8, 1)


def test_a_damaged_sample_of_a_set_is_listed(made: Made, tmp_path: Path) -> None:
    rows = IndexReader(made.shard_set).rows(0)
    path = made.folder / made.shard_set.manifest.shards[0].name
    data = bytearray(path.read_bytes())
    data[rows.offset[3] + 9] ^= 1
    path.write_bytes(data)
    built = build(str(made.folder), tmp_path / "set")
    assert (built.num_samples, built.rejected) == (49, 1)
    assert rejected(tmp_path / "set") == {
        f"{path}/sample-00003": "it does not match its checksum: it changed after it was written"
    }


def test_keys_of_foreign_sets_that_are_not_plain_are_made_so(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / "src" / f"{shard}.tar", [("same.png", picture(shard))])
    index(tmp_path / "src")
    build(str(tmp_path / "src"), tmp_path / "set")
    keys = list(contents(tmp_path / "set"))
    assert len(keys) == 2
    assert all(key.startswith("same-") for key in keys)


def test_splits_with_other_classes_are_not_one_set(made: Made, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    made.folder.rename(tmp_path / "both" / "train")
    write_tar(tmp_path / "x" / "a.tar", labelled(["0"]))
    build(str(tmp_path / "x"), tmp_path / "both" / "test")
    with pytest.raises(UsageError, match="different classes"):
        open_source(str(tmp_path / "both"))
    (tmp_path / "both" / "test").rename(tmp_path / "both" / "birds")
    with pytest.raises(UsageError, match="several shard sets: train, birds"):
        open_source(str(tmp_path / "both"))


def test_a_set_of_clips_is_no_source_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    np.save(tmp_path / "src" / "a.npy", np.zeros((6, 4, 4, 3), np.uint8))
    build(str(tmp_path / "src"), tmp_path / "clips", frames=3)
    with pytest.raises(UsageError, match="a shard set of clips") as error:
        build(str(tmp_path / "clips"), tmp_path / "set", size=2)
    assert "--frames 3" in str(error.value)


def parquet(path: Path, count: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [picture(n) for n in range(count)], "label": [0] * count})
    pq.write_table(table, path, row_group_size=25)
    return path


def any_source(kind: str, folder: Path) -> Path:
    """60 pictures, two of them no pictures, in a source of this kind."""
    if kind == "parquet":
        parquet(folder / "a.parquet")
        return folder
    members = [(f"{n}.png", picture(n) if n % 30 else b"text") for n in range(60)]
    write_tar(folder / "a.tar", members[:50])
    write_tar(folder / "b.tar", members[50:])
    if kind == "tars":
        return folder
    build(str(folder), folder.with_name("as-set"), shard_samples=20)
    return folder.with_name("as-set")


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Killed(BaseException):
    """Ends a build in its midst, as a signal would."""


def cut_short(source: Path | str, dst: Path, **options: Any) -> None:
    def kill(stage: str, done: int, _total: int) -> None:
        if stage == "train" and done >= 25:
            raise Killed

    with pytest.raises(Killed):
        build(str(source), dst, on_progress=kill, **options)


@pytest.mark.parametrize("kind", ["parquet", "tars", "set"])
def test_a_build_that_was_cut_short_goes_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"size": 8, "split": 0.3, "shard_samples": 6, "workers": 1}
    source = any_source(kind, tmp_path / "src")
    whole = build(str(source), tmp_path / "whole", **options)
    cut_short(source, tmp_path / "set", **options)
    built = build(str(source), tmp_path / "set", **options)
    assert built.resumed > 0
    assert (built.num_samples, built.rejected) == (whole.num_samples, whole.rejected)
    assert everything(tmp_path / "set") == everything(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["parquet", "tars", "set"])
def test_a_source_that_changed_begins_anew(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"size": 8, "split": 0.3, "shard_samples": 6, "workers": 1}
    source = any_source(kind, tmp_path / "src")
    cut_short(source, tmp_path / "set", **options)
    if kind == "parquet":
        parquet(source / "a.parquet")  # the same rows at another time
    elif kind == "tars":
        path = source / "b.tar"
        path.write_bytes(path.read_bytes() + bytes(512))
    else:
        build(str(tmp_path / "src"), source, shard_samples=30, overwrite=True)
    assert build(str(source), tmp_path / "set", **options).resumed == 0


@pytest.mark.parametrize("kind", ["parquet", "tars", "set"])
def test_the_scan_and_the_build_tell_how_far_they_are(tmp_path: Path, kind: str) -> None:
    source = any_source(kind, tmp_path / "src")
    told: dict[str, list[tuple[int, int]]] = {}

    def hear(stage: str, done: int, total: int) -> None:
        told.setdefault(stage, []).append((done, total))

    build(str(source), tmp_path / "set", on_progress=hear)
    if kind != "set":  # of which the index says all
        files = [path.stat().st_size for path in source.iterdir()]
        assert told.pop("scan")[-1] == (sum(files), sum(files))
        assert told.pop("survey")[-1][0] == 60
    total = 58 if kind == "set" else 60
    assert told == {"pictures": told["pictures"]}
    assert told["pictures"][-1] == (total, total)
