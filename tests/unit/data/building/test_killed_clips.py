"""Builds of clips that were killed go on to the same bytes, and begin anew where they must."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distgen.data.building import build, journal

from .test_clips import everything, video

KILLED = """
import os, signal, sys
from distgen.data.building import build


def kill(stage, done, total):
    if stage == "train" and done >= 64:
        os.kill(os.getpid(), signal.SIGKILL)

build(sys.argv[1], sys.argv[2], frames=2, split=0.3, shard_samples=20, workers=1, on_progress=kill)
"""


def test_a_killed_build_of_clips_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    options = {"frames": 2, "split": 0.3, "shard_samples": 20, "workers": 1}
    for number in range(12):
        video(tmp_path / "v" / f"v{number:02d}.npy", 20 + number)
    video(tmp_path / "v" / "short.npy", 1)
    whole = build(str(tmp_path / "v"), tmp_path / "whole", **options)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "v"), str(tmp_path / "set")]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    built = build(str(tmp_path / "v"), tmp_path / "set", **options)
    assert built.resumed >= 2
    assert (built.num_samples, built.left_out) == (whole.num_samples, whole.left_out)
    assert everything(tmp_path / "set") == everything(tmp_path / "whole")


def test_another_cut_file_or_decoder_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video(tmp_path / "v" / "a.npy", 400)
    options = {"frames": 2, "shard_samples": 20, "workers": 1}

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "clips" and done >= 64:
            raise KeyboardInterrupt

    for name in ("same", "stride", "file", "decoder"):
        with pytest.raises(KeyboardInterrupt):
            build(str(tmp_path / "v"), tmp_path / name, on_progress=stop, **options)
    assert build(str(tmp_path / "v"), tmp_path / "same", **options).resumed >= 2
    assert build(str(tmp_path / "v"), tmp_path / "stride", stride=2, **options).resumed == 0
    with monkeypatch.context() as other:
        plain = journal.version
        other.setattr(journal, "version", lambda name: plain(name) + "0" * (name == "av"))
        assert build(str(tmp_path / "v"), tmp_path / "decoder", **options).resumed == 0
    video(tmp_path / "v" / "a.npy", 401)
    assert build(str(tmp_path / "v"), tmp_path / "file", **options).resumed == 0
