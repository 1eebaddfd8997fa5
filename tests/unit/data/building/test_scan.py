"""Tars that others wrote become shard sets as they are, and damaged ones are refused by name."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distgen.core.errors import DataError, UsageError
from distgen.core.storage import Location
from distgen.data import Stream, open_shard_set, read_labels, read_samples
from distgen.data.building.scan import index
from distgen.data.formats.foreign import Rules, samples_of
from distgen.data.formats.tars import TarFile
from distgen.data.index import IndexReader
from distgen.data.inspect import verify
from tests.unit.data.conftest import Made
from tests.unit.data.foreign_tars import (
    FORMATS,
    Bytes,
    labelled,
    messy,
    picture,
    turned,
    webdataset_samples,
    write_tar,
)


@pytest.fixture(params=["gnu", "pax"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three messy tars, one with folders and links, all with garbage behind their ends."""
    folder = tmp_path / "foreign"
    for shard in range(3):
        path = write_tar(folder / f"part.{shard}.tar", messy(shard), request.param)
        if shard == 1:
            with tarfile.open(path, "a", format=FORMATS[request.param]) as tar:
                for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
                    info = tarfile.TarInfo(f"other-{kind.decode()}.png")
                    info.type = kind
                    info.linkname = "0001.PNG"
                    tar.addfile(info)
        with path.open("ab") as file:
            file.write(b"garbage" * (100 * shard))
    return folder


def test_samples_are_those_that_webdataset_and_tarfile_read(foreign: Path) -> None:
    before = {path.name: path.read_bytes() for path in foreign.iterdir()}
    indexed = index(foreign)
    assert {path.name: path.read_bytes() for path in foreign.glob("*.tar")} == before
    assert indexed.without_picture == 3
    assert "'README'" not in str(indexed.first_without)
    assert str(indexed.first_without).startswith("README in ")
    shard_set = open_shard_set(str(foreign))
    reader = IndexReader(shard_set)
    theirs = [sample for sample in webdataset_samples(foreign) if sample["__key__"] != "README"]
    rows = [row for number in range(3) for row in reader.table(number).to_pylist()]
    assert len(rows) == len(theirs) == indexed.manifest.num_samples == 21
    images, labels = read_samples(shard_set, np.arange(len(rows)))
    for row, sample, image, label in zip(rows, theirs, images, labels, strict=True):
        key = sample["__key__"].encode(errors="surrogateescape").decode(errors="backslashreplace")
        assert row["key"] == key
        data = Path(sample["__url__"]).read_bytes()
        for field in indexed.manifest.fields:
            if row[f"{field}.offset"] is None:
                continue
            begin = row[f"{field}.offset"]
            named = {"jpg": "jpeg", "png": "png"}.get(field, field)
            expected = sample.get(named, sample.get("v2.final.png"))
            assert data[begin : begin + row[f"{field}.size"]] == expected
        assert label == int(sample["cls"])
        encoded = next(sample[name] for name in ("png", "jpeg", "v2.final.png") if name in sample)
        assert (image == np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))).all()


def test_places_are_those_that_tarfile_finds(foreign: Path) -> None:
    for path in foreign.glob("*.tar"):
        with tarfile.open(path) as tar:
            expected = [(m.name, m.offset_data, m.size) for m in tar.getmembers() if m.isreg()]
        with path.open("rb") as file:
            size = path.stat().st_size
            walk = TarFile(Bytes(file.read()), size, path.name)
            found = [(m.name, m.offset, m.size) for m in walk.members(lambda _name: 0)]
        assert found == expected


def test_every_byte_is_read_once(foreign: Path) -> None:
    data = (foreign / "part.1.tar").read_bytes()
    file = Bytes(data)
    walk = TarFile(file, len(data), "x")
    assert len(list(walk.members(lambda _name: 1 << 20))) > 20
    walk.sha256()
    assert file.read == len(data)


def test_what_is_not_wanted_is_passed_over() -> None:
    """Where no digest is wanted, large members cost as much as their headers."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(8):
            for name, size in ((f"{number}.png", 1 << 20), (f"{number}.cls", 1)):
                info = tarfile.TarInfo(name)
                info.size = size
                tar.addfile(info, io.BytesIO(b"7" * size))
    data = file.getvalue()
    counted = Bytes(data)
    told: list[int] = []
    walk = TarFile(counted, len(data), "x", told.append, whole=False)
    samples = list(samples_of(walk, Rules(streamed=False)))
    assert [sample.label for sample in samples] == ["7"] * 8
    places = [sample.members["png"].offset for sample in samples]
    assert [data[place : place + 2] for place in places] == [b"77"] * 8
    assert {data[place - 1] for place in places} == {0}
    assert counted.read < len(data) / 16
    assert sum(told) == len(data)


def test_a_set_that_was_indexed_streams_resumes_and_verifies(foreign: Path) -> None:
    index(foreign)
    shard_set = open_shard_set(str(foreign))
    assert verify(shard_set).ok
    with Stream(shard_set, batch_size=5, epochs=2) as stream:
        batches = [batch.indices_n.tolist() for batch in stream]
    assert sorted(np.concatenate(batches)[:21].tolist()) == list(range(21))
    with Stream(shard_set, batch_size=5, start=15) as resumed:
        assert next(resumed).indices_n.tolist() == batches[3]
    path = foreign / "part.2.tar"
    data = bytearray(path.read_bytes())
    data[IndexReader(shard_set).rows(2).offset[0] + 9] ^= 1
    path.write_bytes(data)
    verdict = verify(shard_set)
    assert [problem.key for problem in verdict.problems] == ["0001"]


def test_our_own_tars_indexed_again_are_the_same_set(made: Made) -> None:
    before = made.shard_set.manifest
    rows = [IndexReader(made.shard_set).table(number).to_pylist() for number in range(3)]
    for name in ("manifest.json", "index.parquet"):
        (made.folder / name).unlink()
    indexed = index(made.folder, classes=["a", "b", "c"])
    assert indexed.manifest.fingerprint == before.fingerprint
    again = IndexReader(open_shard_set(str(made.folder)))
    assert [again.table(number).to_pylist() for number in range(3)] == rows
    with pytest.raises(UsageError, match="already") as error:
        index(made.folder)
    assert "--overwrite" in str(error.value)
    assert index(made.folder, classes=["a", "b", "c"], overwrite=True).manifest == indexed.manifest


def test_pictures_that_differ_are_named_both(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("one.png", picture()), ("two.png", picture())])
    write_tar(tmp_path / "b.tar", [("three.png", picture(mode="L"))])
    with pytest.raises(DataError, match="differ") as error:
        index(tmp_path)
    text = str(error.value)
    for part in ("three", "one", "6x4 L", "6x4 RGB", "distgen data build"):
        assert part in text
    write_tar(tmp_path / "b.tar", [("three.png", picture()), ("four.png", picture(size=(4, 6)))])
    with pytest.raises(DataError, match="differ") as error:
        index(tmp_path)
    assert "'four'" in str(error.value)
    assert "'three'" in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (picture(mode="RGBA"), "RGBA"),
        (picture(mode="P", transparency=0), "transparency"),
        (picture(mode="CMYK", format="JPEG"), "CMYK"),
        (turned(), "turned"),
        (b"not a picture", "header cannot be read"),
        (b"", "header cannot be read"),
    ],
)
def test_a_picture_that_needs_converting_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    write_tar(tmp_path / "a.tar", [("fine.png", picture()), ("bad.png", data)])
    with pytest.raises(DataError, match="cannot be streamed as it is") as error:
        index(tmp_path)
    assert "bad.png" in str(error.value)
    assert words in str(error.value)
    assert "distgen data build" in str(error.value)


@pytest.mark.parametrize(
    ("labels", "names", "classes", "numbers"),
    [
        (["0", "2 \n", None], None, ("0", "1", "2"), [0, 2, -1]),
        (["1", "0", "1"], ["x", "y", "z"], ("x", "y", "z"), [1, 0, 1]),
        (["dog", "cat", "dog"], None, ("cat", "dog"), [1, 0, 1]),
        (["dog", "cat", "dog"], ["dog", "cat"], ("dog", "cat"), [0, 1, 0]),
        ([None, None], None, (), [-1, -1]),
    ],
)
def test_classes_come_from_numbers_or_names(
    tmp_path: Path, labels: Any, names: Any, classes: Any, numbers: Any
) -> None:
    write_tar(tmp_path / "a.tar", labelled(labels))
    assert index(tmp_path, classes=names).manifest.image.classes == classes
    assert read_labels(open_shard_set(str(tmp_path))).tolist() == numbers


def test_classes_come_from_a_key_of_the_json(tmp_path: Path) -> None:
    texts = [json.dumps(value) for value in ({"kind": 1}, {"kind": 0, "cls": 7}, {"other": 3})]
    write_tar(tmp_path / "a.tar", labelled(texts, "json"))
    assert index(tmp_path, label_key="kind").manifest.image.classes == ("0", "1")
    assert read_labels(open_shard_set(str(tmp_path))).tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("labels", "extension", "options", "words"),
    [
        (["0", "5"], "cls", {"classes": ["a"]}, "Class 5 is outside the 1 classes"),
        (["cta"], "cls", {"classes": ["cat"]}, "did you mean 'cat'"),
        (["99999999"], "cls", {}, "outside"),
        (["{"], "json", {"label_key": "k"}, "no class that can be read"),
        (['{"k": [1]}'], "json", {"label_key": "k"}, "list"),
        (["[" * 100_000], "json", {"label_key": "k"}, "no class that can be read"),
        ([None], "cls", {"classes": ["a"]}, "no sample has a class"),
        (["x" * 300], "cls", {}, "300 bytes"),
    ],
)
def test_labels_that_cannot_be_used_are_named(
    tmp_path: Path, labels: Any, extension: str, options: Any, words: str
) -> None:
    write_tar(tmp_path / "a.tar", labelled(labels, extension))
    with pytest.raises((DataError, UsageError)) as error:
        index(tmp_path, **options)
    assert words in str(error.value)


def test_of_several_pictures_one_has_to_be_named(tmp_path: Path) -> None:
    members = [("a.left.png", picture(1)), ("a.right.png", picture(2))]
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match="2 pictures") as error:
        index(tmp_path)
    assert "--picture left.png" in str(error.value)
    index(tmp_path, picture="Right.PNG")
    images, _ = read_samples(open_shard_set(str(tmp_path)), np.arange(1))
    assert images.max() == images.min() == 2
    with pytest.raises(UsageError, match="'txt'"):
        index(tmp_path, picture="txt", overwrite=True)


def test_an_old_manifest_is_gone_before_its_index_is(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Location, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        index(made.folder, overwrite=True)
    assert not (made.folder / "manifest.json").exists()


def test_a_sample_with_a_member_twice_and_too_many_kinds_are_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.png", picture()), ("a.PNG", picture())])
    with pytest.raises(DataError) as error:
        index(tmp_path)
    assert "two members .png" in str(error.value)
    write_tar(path, [("a.png", picture())] + [(f"a.k{number}", b"") for number in range(80)])
    with pytest.raises(DataError, match="more than 64 kinds"):
        index(tmp_path)


def test_tars_without_pictures_are_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", labelled(["0"]))
    write_tar(tmp_path / "b.tar", [("x.txt", b"x"), ("y.txt", b"y")])
    indexed = index(tmp_path)
    assert (indexed.empty, indexed.without_picture) == (("b.tar",), 2)
    assert [shard.name for shard in indexed.manifest.shards] == ["a.tar"]


def test_a_pattern_chooses_the_shards_of_a_split(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", labelled(["0"]))
    write_tar(tmp_path / "val-0.tar", labelled(["1", "1"]))
    manifest = index(tmp_path, match="val-*.tar", split="val").manifest
    assert (manifest.split, manifest.num_samples) == ("val", 2)


def test_progress_reaches_the_size_of_the_tars(foreign: Path) -> None:
    seen: list[tuple[int, int]] = []
    index(foreign, on_progress=lambda done, total: seen.append((done, total)))
    total = sum(path.stat().st_size for path in foreign.glob("*.tar"))
    assert max(seen) == (total, total)


def test_an_error_leaves_an_older_manifest_as_it_was(made: Made) -> None:
    before = (made.folder / "manifest.json").read_bytes()
    shutil.copy(made.folder / "manifest.json", made.folder / "zzz.tar")
    with pytest.raises(DataError, match="cannot be used"):
        index(made.folder, overwrite=True)
    assert (made.folder / "manifest.json").read_bytes() == before


def test_the_command_says_what_it_made(foreign: Path, tmp_path: Path) -> None:
    from tests.unit.data.test_data_commands import code_and_text, run

    report = json.loads(run("index", foreign, "--json").stdout)
    assert (report["samples"], report["shards"], report["without_picture"]) == (21, 3, 3)
    shown = run("index", foreign, "--overwrite", "--classes", "x, y, z").output
    assert "21 pictures of 6x4 RGB, 3 classes, 3 shards" in shown
    assert "3 samples have no picture or clip" in shown
    assert run("verify", foreign).exit_code == 0
    code, text = code_and_text(run("index", tmp_path / "nothing"))
    assert code == 2
    assert "no folder" in text
