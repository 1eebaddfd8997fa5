"""Clips: from arrays of frames to batches of clips, and what happens to frames on the way."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from distgen.core.errors import DataError, UsageError
from distgen.core.spec import ImageSpec
from distgen.core.world import World
from distgen.data import Manifest, Stream, open_shard_set, read_samples
from distgen.data.building import build, clips
from distgen.data.building.convert import Target, resize
from distgen.data.building.sources import Item, open_source, split_of
from distgen.data.index import IndexEntry, IndexReader, ShardEntry
from distgen.data.pipeline import Samples
from distgen.data.streaming.mixed import mix
from distgen.data.torch_dataset import StreamDataset
from tests.unit.data.test_data_commands import run


def video(path: Path, frames: int, side: int = 6, channels: int | None = 3) -> np.ndarray:
    """A `.npy` of random frames; every one is different."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([frames, side, *path.name.encode()])
    shape = (frames, side, side + 2, *(() if channels is None else (channels,)))
    pixels = random.integers(0, 256, shape, dtype=np.uint8)
    np.save(path, pixels)
    return pixels


def by_key(folder: Path) -> dict[str, np.ndarray]:
    """The clips of a set, by the readable part and the number of their keys."""
    shard_set = open_shard_set(str(folder))
    index = IndexReader(shard_set)
    keys = [
        key
        for shard in range(len(shard_set.manifest.shards))
        for key in index.table(shard, ["key"]).column("key").to_pylist()
    ]
    index.close()
    clips_nthwc, _ = read_samples(shard_set, np.arange(shard_set.num_samples))
    short = ["-".join(key.split("-")[:-2] + key.split("-")[-1:]) for key in keys]
    return dict(zip(short, clips_nthwc, strict=True))


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(newline="") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two classes of three videos, of 8 to 13 frames."""
    for number in range(6):
        video(tmp_path / "videos" / ("run", "walk")[number % 2] / f"v{number}.npy", 8 + number)
    return tmp_path / "videos"


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_videos_are_cut_without_overlap_and_their_ends_counted(tmp_path: Path, stride: int) -> None:
    lengths = {"a": 25, "b": 12, "c": 11, "d": 4}
    pixels = {name: video(tmp_path / "v" / f"{name}.npy", n) for name, n in lengths.items()}
    built = build(str(tmp_path / "v"), tmp_path / "set", frames=4, stride=stride)
    expected, left_out, short = {}, 0, set()
    for name, frames in pixels.items():
        taken = frames[::stride]
        whole = len(taken) // 4
        expected |= {f"{name}-c{n:05d}": taken[4 * n : 4 * n + 4] for n in range(whole)}
        left_out += len(taken) % 4 if whole else 0
        if not whole:
            short.add(f"{name}.npy")
    found = by_key(tmp_path / "set")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert built.left_out == left_out
    assert (set(rejected(tmp_path / "set")) if short else set()) == short


@pytest.mark.parametrize("run_frames", [1, 8, 512])
def test_runs_change_the_order_of_clips_and_nothing_else(
    videos: Path, tmp_path: Path, run_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(str(videos), tmp_path / "default", frames=2, workers=1)
    monkeypatch.setattr(clips, "RUN_FRAMES", run_frames)
    build(str(videos), tmp_path / "set", frames=2, workers=3)
    ours, default = by_key(tmp_path / "set"), by_key(tmp_path / "default")
    assert (list(ours) == list(default)) is (run_frames == 512)
    assert all(np.array_equal(ours[key], default[key]) for key in default)


def test_clips_are_plain_webdataset_members_and_numpy_arrays(videos: Path, tmp_path: Path) -> None:
    build(str(videos), tmp_path / "set", frames=4, shard_samples=5)
    shard_set = open_shard_set(str(tmp_path / "set"))
    assert shard_set.spec.shape == (4, 6, 8, 3)
    assert shard_set.manifest.fields == ("cls", "npy")
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["image"]["frames"] == 4
    tars = [str(shard_set.shard(n)) for n in range(len(shard_set.manifest.shards))]
    clips_nthwc, labels_n = read_samples(shard_set, np.arange(shard_set.num_samples))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert len(samples) == shard_set.num_samples == 14
    for sample, clip_thwc, label in zip(samples, clips_nthwc, labels_n, strict=True):
        assert np.array_equal(sample["npy"], clip_thwc)
        assert sample["cls"] == label
        assert ("run", "walk")[label] in sample["__key__"]
    with tarfile.open(tars[0]) as tar:
        member = next(info for info in tar if info.name.endswith(".npy"))
        file = tar.extractfile(member)
        assert file is not None
        plain = np.load(io.BytesIO(file.read()), allow_pickle=False)
    assert np.array_equal(plain, clips_nthwc[0])


def test_a_stream_gives_batches_of_clips_alike_on_any_ranks(videos: Path, tmp_path: Path) -> None:
    build(str(videos), tmp_path / "set", frames=4)
    shard_set = open_shard_set(str(tmp_path / "set"))
    clips_nthwc, labels_n = read_samples(shard_set, np.arange(shard_set.num_samples))
    options = {"batch_size": 6, "seed": 3, "epochs": 2}
    with Stream(shard_set, cache="none", **options) as stream:
        batches = list(stream)
    for batch in batches:
        assert batch.images_nhwc.shape == (6, 4, 6, 8, 3)
        assert np.array_equal(batch.images_nhwc, clips_nthwc[batch.indices_n])
        assert np.array_equal(batch.labels_n, labels_n[batch.indices_n])
    for rank in range(2):
        with Stream(shard_set, cache="memory", world=World(rank, 2), **options) as stream:
            for whole, part in zip(batches, stream, strict=True):
                assert np.array_equal(part.images_nhwc, whole.images_nhwc[rank::2])


def test_loops_of_others_get_clips_too(videos: Path, tmp_path: Path) -> None:
    build(str(videos), tmp_path / "set", frames=4)
    shard_set = open_shard_set(str(tmp_path / "set"))
    options = {"batch_size": 5, "shuffle": False, "epochs": 1}
    batch = next(iter(StreamDataset(shard_set, **options)))
    clips_nthwc, _ = read_samples(shard_set, batch.indices.numpy())
    assert batch.images.shape == (5, 4, 3, 6, 8)
    assert torch.equal(batch.images, torch.from_numpy(clips_nthwc).permute(0, 1, 4, 2, 3))
    sample = next(Samples(shard_set, **options)())
    assert sample.keys() == {"__key__", "__url__", "npy", "cls"}
    assert np.array_equal(np.load(io.BytesIO(sample["npy"])), clips_nthwc[0])


def test_frames_go_by_the_rules_for_pictures(tmp_path: Path) -> None:
    pixels = video(tmp_path / "v" / "a.npy", 4, side=9)
    build(str(tmp_path / "v"), tmp_path / "set", frames=4, size=(4, 5), mode="L", fit="pad")
    target = Target(4, 5, "L", "pad")
    expected = [np.asarray(resize(Image.fromarray(p).convert("L"), target)) for p in pixels]
    assert np.array_equal(by_key(tmp_path / "set")["a-c00000"][..., 0], np.stack(expected))


@pytest.mark.parametrize(("channels", "mode"), [(None, "L"), (1, "L"), (3, "RGB"), (4, "RGB")])
def test_size_and_mode_are_those_of_the_frames(
    tmp_path: Path, channels: int | None, mode: str
) -> None:
    pixels = video(tmp_path / "v" / "a.npy", 5, channels=channels)
    build(str(tmp_path / "v"), tmp_path / "set", frames=5)
    assert open_shard_set(str(tmp_path / "set")).spec.mode == mode
    clip_thwc = by_key(tmp_path / "set")["a-c00000"]
    if channels == 4:
        opaque = pixels[..., 3:] == 255
        assert np.array_equal(clip_thwc * opaque, pixels[..., :3] * opaque)
        clear = Image.fromarray(pixels[0])
        white = Image.new("RGBA", clear.size, "white")
        over = Image.alpha_composite(white, clear).convert("RGB")
        assert np.array_equal(clip_thwc[0], np.asarray(over))
    else:
        assert np.array_equal(clip_thwc.squeeze(), pixels.squeeze())


def test_all_clips_of_a_video_are_in_the_split_of_the_video(tmp_path: Path) -> None:
    for number in range(20):
        video(tmp_path / "v" / f"v{number:02d}.npy", 12)
    build(str(tmp_path / "v"), tmp_path / "set", frames=3, split=0.4)
    names = {
        split: {key.split("-")[0] for key in by_key(tmp_path / "set" / split)}
        for split in ("train", "test")
    }
    assert not names["train"] & names["test"]
    items = open_source(str(tmp_path / "v"), frames=3).items(None)
    assert names["test"] == {Path(i.origin).stem for i in items if split_of(i, 0.4) == "test"}
    assert len(by_key(tmp_path / "set" / "test")) == 4 * len(names["test"])


def test_what_cannot_be_cut_is_listed_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    good = video(folder / "good.npy", 4)
    video(folder / "short.npy", 3)
    (folder / "empty.npy").touch()
    (folder / "text.npy").write_text("frames")
    (folder / "notes.txt").write_text("frames")
    whole = (folder / "good.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-5])
    (folder / "long.npy").write_bytes(whole + b"x")
    np.save(folder / "float.npy", good / 255)
    np.save(folder / "turned.npy", np.asfortranarray(good))
    np.save(folder / "picture.npy", good[0])
    np.save(folder / "channels.npy", good[..., :2])
    np.save(folder / "nothing.npy", good[:0])
    np.save(folder / "objects.npy", np.array([print]), allow_pickle=True)
    built = build(str(folder), tmp_path / "set", frames=4)
    reasons = rejected(tmp_path / "set")
    assert built.num_samples == 1
    assert built.rejected == len(reasons) == 12
    for name, words in {
        "short.npy": "it has 3 frames; a clip takes 4",
        "empty.npy": "the file is empty",
        "text.npy": "no frames in a known format",
        "notes.txt": "not that of a video",
        "cut.npy": "cut short",
        "long.npy": "too long",
        "float.npy": "not uint8",
        "turned.npy": "Fortran",
        "picture.npy": "a picture, not the frames of a clip",
        "channels.npy": "1, 3 or 4 channels",
        "nothing.npy": "is empty",
        "objects.npy": "not uint8",
    }.items():
        assert words in reasons[name], name


def test_a_file_that_shrinks_after_the_look_is_listed_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video(tmp_path / "v" / "a.npy", 4)
    video(tmp_path / "v" / "b.npy", 4)
    plain = clips.look_at

    def then_shrunk(path: Path, cut: clips.Cut) -> clips.Video:
        found = plain(path, cut)
        if path.name == "b.npy":
            video(path, 2)
        return found

    monkeypatch.setattr("distgen.data.building.cut.look_at", then_shrunk)
    built = build(str(tmp_path / "v"), tmp_path / "set", frames=4, workers=1)
    assert (built.num_samples, built.rejected) == (1, 1)
    assert "the file changed" in rejected(tmp_path / "set")["b.npy[0:4]"]


def test_clips_with_the_same_frames_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    pixels = video(folder / "a.npy", 4)
    np.save(folder / "b.npy", np.concatenate([pixels, pixels]))
    built = build(str(folder), tmp_path / "set", frames=4)
    assert (built.num_samples, built.duplicates) == (3, 2)
    with (tmp_path / "set" / "duplicates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    named = {Path(each).name for row in rows for each in row.values()}
    assert named == {"a.npy[0:4]", "b.npy[0:4]", "b.npy[4:8]"}
    shown = run("build", folder, tmp_path / "shown", "--frames", "4").output
    assert "2 clips have the frames of another" in shown
    dropped = build(str(folder), tmp_path / "less", frames=4, drop_duplicates=True)
    assert dropped.num_samples == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": 0}, "--frames is 0"),
        ({"frames": 100_000}, "from 1 to 65536"),
        ({"frames": 4, "stride": 0}, "--stride is 0"),
        ({"stride": 2}, "--stride 2 is for clips"),
        ({"frames": 4, "encoding": "jpg"}, "leave out --encoding"),
        ({"frames": 4, "size": 16_384}, "more than 1024 MiB"),
    ],
)
def test_impossible_options_are_refused(
    videos: Path, tmp_path: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        build(str(videos), tmp_path / "set", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_pictures_are_no_videos_and_videos_no_pictures(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of which no clips can be made"):
        build("digits", tmp_path / "set", frames=4)
    with pytest.raises(DataError, match="--frames makes clips of videos"):
        build(str(videos), tmp_path / "set", size=4)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    with pytest.raises(DataError, match="as a video"):
        build(str(tmp_path / "texts"), tmp_path / "set", frames=4)


def test_pictures_and_clips_of_other_lengths_do_not_mix(videos: Path, tmp_path: Path) -> None:
    for frames in (2, 4):
        build(str(videos), tmp_path / str(frames), frames=frames)
    sets = [(open_shard_set(str(tmp_path / name)), 1.0) for name in ("2", "4")]
    with pytest.raises(UsageError, match="differ in frames: clips of 2 and clips of 4"):
        mix(sets)


def test_a_clip_of_another_shape_than_the_manifest_says_is_named(
    videos: Path, tmp_path: Path
) -> None:
    build(str(videos), tmp_path / "set", frames=4)
    path = tmp_path / "set" / "manifest.json"
    path.write_text(path.read_text().replace('"frames": 4', '"frames": 5'))
    with pytest.raises(DataError, match="the array is 4x6x8x3, not 5x6x8x3"):
        read_samples(open_shard_set(str(tmp_path / "set")), np.arange(1))


GOLDEN = "4361530e942ad034476380222ec96cdadcf081c036d7dfd4429d455c906c990e"


def test_fingerprints_and_manifests_of_pictures_are_from_before_clips() -> None:
    image = ImageSpec(height=4, width=6, mode="RGB", classes=("a", "b"))
    shard = ShardEntry(name="shard-000000.tar", bytes=9216, samples=5, sha256="1" * 64)
    manifest = Manifest(
        name="golden",
        fields=("cls", "png"),
        image=image,
        num_samples=5,
        index=IndexEntry(bytes=7, sha256="0" * 64),
        shards=(shard,),
    )
    assert manifest.fingerprint == GOLDEN
    assert manifest.model_dump(mode="json")["image"].keys() == {
        "height", "width", "mode", "classes",
    }  # fmt: skip
    plain = manifest.model_dump(mode="json")
    clips_of_them = {"image": plain["image"] | {"frames": 4}, "fields": ["cls", "npy"]}
    of_clips = Manifest.model_validate(plain | clips_of_them)
    assert of_clips.fingerprint != GOLDEN
    assert Manifest.model_validate(of_clips.model_dump(mode="json")) == of_clips
    assert Manifest.model_validate(manifest.model_dump(mode="json")) == manifest


def test_a_clip_knows_its_frames_by_their_range(tmp_path: Path) -> None:
    video(tmp_path / "a.npy", 40)
    looked = clips.look_at(tmp_path / "a.npy", clips.Cut(4, 2))
    assert (looked.clips, looked.left_out) == (5, 0)
    item = Item("a", "a.npy", -1, clips.Clip(looked, 2))
    assert clips.Clip(looked, 2).range_text == "[16:24:2]"
    assert item.header().width == 8
