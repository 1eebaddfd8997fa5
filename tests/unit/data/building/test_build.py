"""`build`: from messy folders to sets that any WebDataset reader reads."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from distgen.core.errors import DataError, UsageError
from distgen.core.spec import ImageSpec
from distgen.core.storage import locate
from distgen.data import open_shard_set, read_samples, splits_of
from distgen.data.building import Built, SetWriter, build
from distgen.data.index import IndexReader


def jpeg(path: Path, size: tuple[int, int] = (24, 24), **options: Any) -> bytes:
    random = np.random.default_rng(abs(hash(path.name)) % 1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG", **options)
    return path.read_bytes()


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """24 JPEGs of one size in two classes."""
    for number in range(24):
        jpeg(tmp_path / "animals" / ("cat", "dog")[number % 2] / f"{number:02d}.jpg")
    return tmp_path / "animals"


def members(folder: Path) -> dict[str, bytes]:
    """All members of all tars of a set, as `tarfile` reads them."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                found[info.name] = file.read()
    return found


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(newline="") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_webdataset_reads_every_sample(animals: Path, tmp_path: Path) -> None:
    build(str(animals), tmp_path / "set", shard_samples=10)
    shard_set = open_shard_set(str(tmp_path / "set"))
    tars = [str(shard_set.shard(n)) for n in range(len(shard_set.manifest.shards))]
    assert len(tars) == 3
    dataset = webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8")
    images_nhwc, labels_n = read_samples(shard_set, np.arange(24))
    samples = list(dataset)
    assert len(samples) == len({sample["__key__"] for sample in samples}) == 24
    for sample, label, image_hwc in zip(samples, labels_n, images_nhwc, strict=True):
        assert sample["cls"] == label
        # Pillow's and simplejpeg's decoders may differ by rounding.
        assert np.abs(sample["jpg"].astype(int) - image_hwc).max() <= 3


def test_tarfile_and_the_index_agree_on_every_byte(animals: Path, tmp_path: Path) -> None:
    build(str(animals), tmp_path / "set", shard_samples=7)
    shard_set = open_shard_set(str(tmp_path / "set"))
    found = members(tmp_path / "set")
    index = IndexReader(shard_set)
    count = 0
    for number, shard in enumerate(shard_set.manifest.shards):
        data = shard_set.shard(number).read_bytes()
        rows = index.table(number).to_pylist()
        assert len(rows) == shard.samples
        for row in rows:
            for field in ("cls", "jpg"):
                begin, size = row[f"{field}.offset"], row[f"{field}.size"]
                assert data[begin : begin + size] == found[f"{row['key']}.{field}"]
                count += 1
            assert (row["width"], row["height"]) == (24, 24)
    assert count == len(found) == 48


def test_jpegs_that_fit_are_copied_byte_for_byte(animals: Path, tmp_path: Path) -> None:
    build(str(animals), tmp_path / "set")
    stored = {data for name, data in members(tmp_path / "set").items() if name.endswith(".jpg")}
    assert stored == {path.read_bytes() for path in animals.rglob("*.jpg")}


def test_the_same_pictures_give_the_same_bytes(animals: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 3)):
        build(str(animals), tmp_path / name, size=16, split=0.3, workers=workers, shard_samples=5)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_what_cannot_be_read_is_listed_with_its_reason(animals: Path, tmp_path: Path) -> None:
    (animals / "cat" / "empty.jpg").touch()
    (animals / "cat" / "text.jpg").write_text("hello")
    (animals / "dog" / "notes.txt").write_text("not a picture")
    (animals / "top.jpg").write_bytes(jpeg(tmp_path / "top.jpg"))
    cut = animals / "dog" / "cut.jpg"
    cut.write_bytes(jpeg(cut)[:300])
    built = build(str(animals), tmp_path / "set")
    assert (built.num_samples, built.rejected) == (24, 5)
    reasons = rejected(tmp_path / "set")
    assert "empty" in reasons["empty.jpg"]
    assert "not a picture" in reasons["text.jpg"]
    assert "'.txt'" in reasons["notes.txt"]
    assert "outside the class folders" in reasons["top.jpg"]
    assert "decoded" in reasons["cut.jpg"]
    build(str(animals), tmp_path / "set", overwrite=True)
    for name in ("cat/empty.jpg", "cat/text.jpg", "dog/notes.txt", "top.jpg", "dog/cut.jpg"):
        (animals / name).unlink()
    build(str(animals), tmp_path / "set", overwrite=True)
    assert not (tmp_path / "set" / "rejected.csv").exists()


def test_nothing_readable_is_an_error_and_no_set(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jpg").write_text("hello")
    for size in (None, 8):
        with pytest.raises(DataError, match="None of 1 files") as error:
            build(str(tmp_path / "src"), tmp_path / "set", size=size)
        assert "not a picture" in str(error.value)
        assert not list((tmp_path / "set").glob("manifest.json"))


def test_size_and_mode_come_from_the_pictures(animals: Path, tmp_path: Path) -> None:
    built = build(str(animals), tmp_path / "set")
    spec = built.manifests[None].image
    assert (spec.height, spec.width, spec.mode, spec.classes) == (24, 24, "RGB", ("cat", "dog"))
    grey = tmp_path / "grey"
    grey.mkdir()
    Image.new("L", (6, 4), 9).save(grey / "a.png")
    spec = build(str(grey), tmp_path / "grey-set").manifests[None].image
    assert (spec.height, spec.width, spec.mode, spec.classes) == (4, 6, "L", ())
    _, labels_n = read_samples(open_shard_set(str(tmp_path / "grey-set")), np.array([0]))
    assert labels_n.tolist() == [-1]


def test_pictures_of_an_endless_side_need_a_size(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    Image.new("L", (20_000, 4)).save(tmp_path / "src" / "long.png")
    with pytest.raises(UsageError, match="--size is 4x20000"):
        build(str(tmp_path / "src"), tmp_path / "set")


def test_pictures_of_several_sizes_need_a_size(animals: Path, tmp_path: Path) -> None:
    jpeg(animals / "cat" / "large.jpg", (48, 32))
    with pytest.raises(UsageError, match="2 different sizes") as error:
        build(str(animals), tmp_path / "set")
    assert "--size" in str(error.value.remedy)
    built = build(str(animals), tmp_path / "set", size=(10, 12))
    assert (built.manifests[None].image.height, built.manifests[None].image.width) == (10, 12)


def test_splits_are_disjoint_and_stable(animals: Path, tmp_path: Path) -> None:
    built = build(str(animals), tmp_path / "set", split=0.3)
    assert splits_of(str(tmp_path / "set")) == ("train", "test")
    keys = {s: set(members(tmp_path / "set" / s)) for s in ("train", "test")}
    assert not keys["train"] & keys["test"]
    assert len(keys["train"] | keys["test"]) == 48
    assert built.num_samples == 24
    assert list(built.manifests) == ["train", "test"]


def test_an_existing_set_is_replaced_only_on_request(animals: Path, tmp_path: Path) -> None:
    build(str(animals), tmp_path / "set", shard_samples=5)
    keep = tmp_path / "set" / "notes.md"
    keep.write_text("mine")
    with pytest.raises(UsageError, match="already") as error:
        build(str(animals), tmp_path / "set", split=0.3)
    assert "--overwrite" in str(error.value.remedy)
    build(str(animals), tmp_path / "set", split=0.3, overwrite=True)
    assert keep.read_text() == "mine"
    assert not list((tmp_path / "set").glob("*.tar"))
    (tmp_path / "set" / "train" / "manifest.json").write_text("{}")
    build(str(animals), tmp_path / "set", overwrite=True)
    assert open_shard_set(str(tmp_path / "set")).num_samples == 24


def test_a_build_that_fails_leaves_no_set_and_no_scraps(tmp_path: Path) -> None:
    image = ImageSpec(height=2, width=2, mode="L")
    with SetWriter(locate(tmp_path / "set"), name="x", image=image, fields=("png",)) as writer:
        writer.add("fine", {"png": b"1"})
        with pytest.raises(UsageError, match=r"'a\.b' cannot be the key"):
            writer.add("a.b", {"png": b"1"})
    assert list((tmp_path / "set").iterdir()) == []


def test_shards_of_an_unfinished_longer_build_are_removed(animals: Path, tmp_path: Path) -> None:
    build(str(animals), tmp_path / "set", shard_samples=5)
    (tmp_path / "set" / "manifest.json").unlink()
    build(str(animals), tmp_path / "set", shard_samples=20)
    assert len(list((tmp_path / "set").glob("*.tar"))) == 2


def test_shards_end_at_the_size_that_was_asked_for(animals: Path, tmp_path: Path) -> None:
    built = build(str(animals), tmp_path / "set", shard_bytes=16_000)
    sizes = [shard.bytes for shard in built.manifests[None].shards]
    assert len(sizes) > 2
    assert max(sizes) < 16_000 + 3 * 10_240  # a sample more, and tar's padding


def test_progress_reaches_the_end_of_every_stage(animals: Path, tmp_path: Path) -> None:
    told: dict[str, tuple[int, int]] = {}
    build(
        str(animals),
        tmp_path / "set",
        split=0.3,
        on_progress=lambda stage, done, total: told.update({stage: (done, total)}),
    )
    assert list(told) == ["survey", "train", "test"]
    assert all(done == total for done, total in told.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fit": "crup"}, "did you mean 'crop'"),
        ({"mode": "rgb"}, "--mode 'rgb' is unknown"),
        ({"encoding": "gif"}, "--encoding 'gif' is unknown"),
        ({"size": 0}, "--size is 0x0"),
        ({"size": 10**9}, "--size"),
        ({"split": 1.5}, "--split is 1.5"),
        ({"split": 1e-9}, "split 'test' would be empty"),
        ({"quality": 0}, "--quality is 0"),
        ({"workers": -1}, "--workers is -1"),
        ({"shard_samples": 0}, "--shard-samples is 0"),
    ],
)
def test_impossible_options_are_named(
    animals: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as error:
        build(str(animals), tmp_path / "set", **options)
    assert words in str(error.value)
    assert not (tmp_path / "set").exists()


def test_a_split_without_class_folders_beside_one_with_them_is_an_error(
    animals: Path, tmp_path: Path
) -> None:
    jpeg(tmp_path / "src" / "test" / "top.jpg")
    animals.rename(tmp_path / "src" / "train")
    with pytest.raises(DataError, match="None of 1 files") as error:
        build(str(tmp_path / "src"), tmp_path / "set")
    assert error.value.remedy == "class folders for the pictures of every split, or for none"


def test_splits_of_the_source_cannot_be_overruled(tmp_path: Path) -> None:
    for split in ("train", "test"):
        jpeg(tmp_path / "src" / split / "cat" / "a.jpg")
    with pytest.raises(UsageError, match="splits of its own"):
        build(str(tmp_path / "src"), tmp_path / "set", split=0.5)
    built = build(str(tmp_path / "src"), tmp_path / "set")
    assert list(built.manifests) == ["train", "test"]


def test_digits_are_built_at_sixteen_pixels(digits: str) -> None:
    train, test = (open_shard_set(digits, split) for split in ("train", "test"))
    assert train.num_samples + test.num_samples == 1797
    assert (train.spec.height, train.spec.width, train.spec.mode) == (16, 16, "L")
    assert train.spec.classes == tuple("0123456789")


def test_a_pipe_in_a_destination_is_a_file_name(animals: Path, tmp_path: Path) -> None:
    """webdataset runs `pipe:` URLs in a shell; ours never reach it."""
    mark = tmp_path / "ran"
    built: Built = build(str(animals), tmp_path / f"pipe:touch {mark.name}")
    assert built.num_samples == 24
    assert not mark.exists()
    assert io.BytesIO(built.location.local.joinpath("shard-000000.tar").read_bytes())  # type: ignore[union-attr]
