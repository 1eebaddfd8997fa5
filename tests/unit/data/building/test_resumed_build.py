"""Builds that were killed go on, sets that are replaced stay, and duplicates are listed."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from distgen.data import open_shard_set
from distgen.data.building import build

OPTIONS = {"size": 8, "split": 0.4, "shard_samples": 10, "workers": 1}

KILLED = """
import os, signal, sys
from distgen.data.building import build

def kill(stage, done, total):
    if stage == sys.argv[3] and done >= 32:
        os.kill(os.getpid(), signal.SIGKILL)

build(sys.argv[1], sys.argv[2], size=8, split=0.4, shard_samples=10, workers=1,
      overwrite=True, on_progress=kill)
"""


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """130 pictures, two of them the same, and two that are none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(130):
        Image.new("RGB", (8, 8), (number % 129, 9, 9)).save(folder / f"{number}.png")
    (folder / "text.png").write_text("text")
    (folder / "empty.png").touch()
    return folder


def killed(pictures: Path, dst: Path, stage: str) -> None:
    arguments = [sys.executable, "-c", KILLED, str(pictures), str(dst), stage]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(("stage", "replaced"), [("train", False), ("test", True)])
def test_a_killed_build_goes_on_to_the_same_bytes(
    pictures: Path, tmp_path: Path, stage: str, replaced: bool
) -> None:
    build(str(pictures), tmp_path / "whole", **OPTIONS)
    if replaced:
        build(str(pictures), tmp_path / "set", size=4)
        before = everything(tmp_path / "set")
    killed(pictures, tmp_path / "set", stage)
    if replaced:
        assert before.items() <= everything(tmp_path / "set").items()
        assert open_shard_set(str(tmp_path / "set")).num_samples == 130
    built = build(str(pictures), tmp_path / "set", overwrite=True, **OPTIONS)
    assert built.resumed >= 2
    assert (built.num_samples, built.rejected, built.duplicates) == (130, 2, 1)
    assert everything(tmp_path / "set") == everything(tmp_path / "whole")


def test_other_arguments_or_files_begin_anew(pictures: Path, tmp_path: Path) -> None:
    killed(pictures, tmp_path / "set", "train")
    (pictures / "0.png").write_bytes((pictures / "1.png").read_bytes() + b" ")
    assert build(str(pictures), tmp_path / "set", **OPTIONS).resumed == 0
    killed(pictures, tmp_path / "two", "train")
    other = OPTIONS | {"quality": 80}
    assert build(str(pictures), tmp_path / "two", **other).resumed == 0
    build(str(pictures), tmp_path / "whole", **other)
    assert everything(tmp_path / "two") == everything(tmp_path / "whole")


def test_duplicates_are_listed_and_dropped_on_request(pictures: Path, tmp_path: Path) -> None:
    same = {str(pictures / "0.png"), str(pictures / "129.png")}
    for drop, samples in ((False, 130), (True, 129)):
        built = build(
            str(pictures), tmp_path / "set", overwrite=True, drop_duplicates=drop, **OPTIONS
        )
        assert (built.num_samples, built.duplicates) == (samples, 1)
        with (tmp_path / "set" / "duplicates.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert {row["path"], row["same_as"]} == same
