"""Clips that are made here: what moves in them and how, and that they are the same everywhere."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.errors import DataError, UsageError
from distgen.data import open_shard_set, read_samples
from distgen.data.building import build
from distgen.data.building.journal import digest_of
from distgen.data.building.processes import Processes
from distgen.data.building.sources import SourceOptions, builtin, moving, open_source
from distgen.data.building.sources.builtin import (
    FASHION_FOLDER,
    MOVING_TEST_SHA256,
    moving_fashion_mnist,
)
from distgen.data.building.sources.moving import MovingSource, check_frozen, way
from tests.unit.data.test_data_commands import code_and_text, run

needs_fashion = pytest.mark.skipif(
    not FASHION_FOLDER.is_dir(), reason="needs dataset-fashion-mnist"
)
PICTURES = {
    "train": np.arange(1, 101, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2),
    "test": np.arange(151, 251, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2),
}

KILLED = """
import os, signal, sys
import numpy as np
from distgen.data.building import build
from distgen.data.building.sources.moving import MovingSource

def kill(stage, done, total):
    if stage == sys.argv[2] and done >= 13:
        os.kill(os.getpid(), signal.SIGKILL)

pictures = np.arange(1, 101, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
source = MovingSource("m", {"train": pictures, "test": pictures}, 40, 20, frames=3)
build(source, sys.argv[1], shard_samples=5, workers=1, overwrite=True, on_progress=kill)
"""


def small(clips: int = 40, test_clips: int = 20, **options: int) -> MovingSource:
    return MovingSource("m", PICTURES, clips, test_clips, **{"frames": 3, **options})


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def clips_of(folder: Path, split: str) -> np.ndarray:
    shard_set = open_shard_set(str(folder), split)
    return read_samples(shard_set, np.arange(shard_set.num_samples))[0]


@needs_fashion
def test_the_test_clips_are_the_frozen_ones() -> None:
    source = moving_fashion_mnist(clips=3, frames=20)
    assert isinstance(source, MovingSource)
    found = hashlib.sha256()
    for item in source.items("test"):
        found.update(item.content.pixels().data)  # type: ignore[union-attr]
    assert len(source.items("test")) == 1000
    assert found.hexdigest() == MOVING_TEST_SHA256


@needs_fashion
def test_other_test_clips_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "MOVING_TEST_SHA256", "0" * 64)
    with pytest.raises(DataError, match="not those that figures are measured on"):
        moving_fashion_mnist()
    monkeypatch.setattr(moving, "_STEP", 0.11)
    with pytest.raises(DataError, match="computes otherwise"):
        check_frozen(small(frames=20), MOVING_TEST_SHA256)


@given(seed=st.integers(0, 2**63 - 1), room=st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_things_stay_inside_and_move_by_a_tenth_of_the_room(
    seed: int, room: tuple[int, int]
) -> None:
    places = np.array(way(seed, room, 50))
    assert (places >= 0).all()
    assert (places <= room).all()
    moved = np.abs(np.diff(places, axis=0))
    assert (moved <= np.ceil(0.1 * np.array(room)) + 1).all()
    first, second = np.array(way(seed, (36_000, 36_000), 2))
    if (np.minimum(first, 36_000 - first) > 3_600).all():
        assert abs(np.hypot(*(second - first)) - 3_600) < 3


def test_a_thing_goes_back_from_a_wall_the_way_it_came() -> None:
    for seed in range(50):
        rows = np.array(way(seed, (36_000, 36_000), 60))[:, 0]
        steps = np.diff(rows)
        size = np.abs(steps).max()
        inside = (rows[1:] > 0) & (rows[1:] < 36_000) & (rows[:-1] > 0) & (rows[:-1] < 36_000)
        assert (np.abs(np.abs(steps[inside]) - size) <= 1).all()
        walls = np.flatnonzero((rows[1:-1] == 0) | (rows[1:-1] == 36_000)) + 1
        for wall in walls:
            assert np.sign(rows[wall + 1] - rows[wall]) == (1 if rows[wall] == 0 else -1)


def test_the_brighter_of_two_things_is_in_front() -> None:
    overlaps = 0
    for number in range(40):
        clip = small(frames=4).clip("train", number)
        low, high = sorted(int(picture.max()) for picture in clip.pictures_khw)
        for frame in clip.pixels():
            if low == high:
                continue
            assert (frame == high).sum() == 28 * 28
            assert set(np.unique(frame)) <= {0, low, high}
            overlaps += (frame == low).sum() < 28 * 28
    assert overlaps


def test_each_split_shows_its_own_pictures_only() -> None:
    for split, (low, high) in {"train": (1, 100), "test": (151, 250)}.items():
        shown = {int(p.max()) for n in range(200) for p in small().clip(split, n).pictures_khw}
        assert min(shown) >= low
        assert max(shown) <= high
        assert len(shown) > 80


def test_a_clip_depends_on_seed_split_and_number_only(tmp_path: Path) -> None:
    build(small(5, 3), tmp_path / "short")
    build(small(9, 7, frames=6), tmp_path / "long")
    for split, count in (("train", 5), ("test", 3)):
        long = clips_of(tmp_path / "long", split)
        assert np.array_equal(clips_of(tmp_path / "short", split), long[:count, :3])
        assert len(np.unique(long.reshape(len(long), -1), axis=0)) == len(long)
    build(small(5, 3, seed=1), tmp_path / "other")
    assert not np.array_equal(
        clips_of(tmp_path / "other", "test"), clips_of(tmp_path / "short", "test")
    )


def test_processes_make_the_same_bytes_as_threads(tmp_path: Path) -> None:
    build(small(), tmp_path / "threads", workers=1)
    with Processes(2) as processes:
        build(small(), tmp_path / "processes", executor=processes)
    assert everything(tmp_path / "threads") == everything(tmp_path / "processes")


@pytest.mark.parametrize("stage", ["train", "test"])
def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path: Path, stage: str) -> None:
    pictures = {"train": PICTURES["train"], "test": PICTURES["train"]}
    source = MovingSource("m", pictures, 40, 20, frames=3)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "set"), stage]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    built = build(source, tmp_path / "set", shard_samples=5, workers=1, overwrite=True)
    assert built.resumed >= 1
    build(source, tmp_path / "whole", shard_samples=5, workers=1)
    assert everything(tmp_path / "set") == everything(tmp_path / "whole")


def test_clips_come_in_another_size_and_in_colour(tmp_path: Path) -> None:
    build(small(2, 1), tmp_path / "set", size=32, mode="RGB")
    clips = clips_of(tmp_path / "set", "train")
    assert clips.shape == (2, 3, 32, 32, 3)
    assert (clips[..., 0] == clips[..., 2]).all()
    assert clips.max() > 0


@needs_fashion
def test_the_command_builds_as_many_clips_as_it_is_asked_for(tmp_path: Path) -> None:
    options = ("--clips", "3", "--test-clips", "2", "--frames", "4")
    result = run("build", "moving-fashion-mnist", tmp_path / "set", *options)
    assert result.exit_code == 0, result.output
    assert "3 clips of 4 frames of 64x64 L" in " ".join(result.output.split())
    assert clips_of(tmp_path / "set", "train").shape == (3, 4, 64, 64, 1)
    assert open_shard_set(str(tmp_path / "set"), "test").num_samples == 2


@needs_fashion
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--clips", "0"), "--clips is 0; it has to be from 1"),
        (("--frames", "4", "--stride", "2"), "leave out --stride"),
        (("--encoding", "png"), "Clips are stored as arrays, not as png"),
        (("--picture", "png"), "--picture is for tars, and the source is clips that distgen makes"),
        (("--split", "0.1"), "comes with splits of its own: train, test"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, options: tuple[str, ...], text: str
) -> None:
    code, output = code_and_text(run("build", "moving-fashion-mnist", tmp_path / "set", *options))
    assert code == 2
    assert text in output
    assert not (tmp_path / "set").exists()


def test_numbers_of_clips_are_for_made_clips() -> None:
    with pytest.raises(UsageError, match="--test-clips is for clips that distgen makes, and the"):
        open_source("digits", SourceOptions(test_clips=5))


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"frames": 4}, {"clips": 39}, {"pictures": 1}], ids=str
)
def test_a_build_goes_on_only_from_one_of_the_same_clips(other: dict[str, int]) -> None:
    def digest(source: MovingSource) -> str:
        return digest_of({}, {split: source.items(split) for split in source.splits})

    same, changed = small(), small(**{k: v for k, v in other.items() if k != "pictures"})
    if "pictures" in other:
        changed = MovingSource("m", {**PICTURES, "test": PICTURES["test"] + 1}, 40, 20, frames=3)
    assert digest(small()) == digest(same) != digest(changed)
