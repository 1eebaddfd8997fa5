"""How jobs are listed; tests/ray/test_jobs.py has a cluster that runs some."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from distgen.cli.console import print_table
from distgen.cli.jobs import _chosen, _table, _tell_upload
from distgen.core.errors import UsageError
from distgen.launch import upload
from distgen.launch.submit import JobInfo

JOB = JobInfo("long-name-" * 12 + "a1b2c3", "x", "train", "SUCCEEDED", 1e9, 1e9 + 61, 0, "")


def test_an_id_is_whole_in_a_pipe_and_in_a_narrow_terminal(capsys):
    print_table(_table([JOB]))
    _, line = capsys.readouterr().out.splitlines()
    assert line.split()[:3] == [JOB.id, "train", "SUCCEEDED"]
    assert "0:01:01" in line

    narrow = Console(file=io.StringIO(), width=72, force_terminal=True, color_system=None)
    narrow.print(_table([JOB]))
    shown = narrow.file.getvalue().splitlines()
    assert "".join(row.split(" ")[0] for row in shown[1:]) == JOB.id


def test_what_is_sent_is_said_and_large_files_are_named(capsys, monkeypatch, tmp_path):
    (tmp_path / "model.py").write_text("x")
    (tmp_path / "movie.bin").write_bytes(bytes(3000))
    (tmp_path / "data").symlink_to("/")
    _tell_upload(None, 900)
    assert "the job file alone, 900 bytes" in capsys.readouterr().err
    _tell_upload(_chosen(tmp_path, []), 900)
    said = capsys.readouterr().err.replace("\n", "")
    assert "2 files of" in said
    assert "2.9 KiB" in said
    assert "1 links: data" in said
    assert "movie.bin" not in said
    monkeypatch.setattr(upload, "LARGE_BYTES", 2000)
    _tell_upload(_chosen(tmp_path, []), 900)
    assert "movie.bin, 2.9 KiB" in capsys.readouterr().err
    assert _chosen(tmp_path, ["movie.bin"]).files == {"model.py": 1}


def test_patterns_without_a_folder_are_a_mistake():
    assert _chosen(None, []) is None
    with pytest.raises(UsageError, match="--upload"):
        _chosen(None, ["*.bin"])
