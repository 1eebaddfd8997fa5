"""`distgen runs` on runs of every state, and on what is no run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distgen.core.config import dump_yaml, parse
from distgen.core.storage import locate
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder, Tick

from .conftest import Distgen


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return str(tmp_path / "runs")


def make_run(storage: str, name: str, *kinds: str) -> RunFolder:
    """A run's folder to which these things have happened just now."""
    raw = {
        "name": name,
        "storage": storage,
        "data": {"shards": "shards"},
        "model": {"family": "gan"},
        "training": {"images": 1280, "batch_size": 64},
    }
    run = RunFolder(locate(storage) / name)
    run.location.make_dir()
    run.job_file.write_text(dump_yaml(parse(TrainJob, raw, "a test")))
    for number, kind in enumerate(kinds):
        run.event(kind, 64 * number)
    return run


def rows(distgen: Distgen, storage: str) -> dict[str, dict]:
    result = distgen("runs", "ls", "--storage", storage, "--json")
    assert result.returncode == 0, result.stderr
    return {row["name"]: row for row in json.loads(result.stdout)}


def test_an_empty_storage_has_no_runs(distgen, storage):
    assert "No runs in" in distgen("runs", "ls", "--storage", storage).stdout
    assert rows(distgen, storage) == {}


def test_each_run_has_its_state(distgen, storage):
    make_run(storage, "new")
    make_run(storage, "done", "started", "checkpoint", "finished")
    make_run(storage, "halted", "started", "stopped")
    running = make_run(storage, "busy", "started")
    running.log(Tick("train", 640, 1280, images_per_s=12.34))
    lost = make_run(storage, "lost", "started")
    ago = (lost.location / "events.jsonl").local
    ago.write_text(json.dumps({"time": "2020-01-01T00:00:00+00:00", "event": "started",
                               "images_seen": 0}) + "\n")  # fmt: skip
    found = rows(distgen, storage)
    assert {name: row["state"] for name, row in found.items()} == {
        "new": "prepared",
        "done": "finished",
        "halted": "stopped",
        "busy": "running",
        "lost": "silent",
    }
    assert found["busy"]["images_seen"] == 640
    assert found["busy"]["images_per_s"] == 12.3
    assert found["done"]["images_seen"] == 128
    lines = distgen("runs", "ls", "--storage", storage).stdout.splitlines()
    assert any(line.split()[0] == "busy" and "running" in line for line in lines)


def test_one_run_that_cannot_be_read_hides_no_other(distgen, storage):
    make_run(storage, "good", "started", "finished")
    (make_run(storage, "bad").job_file.local).write_text("kind: [")
    newer = make_run(storage, "newer")
    newer.job_file.write_text(newer.job_file.read_text() + "a_key_of_tomorrow: 1\n")
    found = rows(distgen, storage)
    assert found["good"]["state"] == "finished"
    assert found["bad"]["state"] == found["newer"]["state"] == "unreadable"
    assert "a_key_of_tomorrow" in found["newer"]["cause"]
    assert distgen("runs", "ls", "--storage", storage).returncode == 0
    assert distgen("runs", "show", "bad", "--storage", storage).returncode == 2
    assert distgen("runs", "rm", "bad", "--storage", storage, "--yes").returncode == 0
    assert "bad" not in rows(distgen, storage)


def test_an_unknown_run_is_named_with_the_nearest(distgen, storage):
    make_run(storage, "fashion-gan", "started")
    for command in ("show", "events", "rm"):
        result = distgen("runs", command, "fashion-gna", "--storage", storage)
        assert result.returncode == 2
        assert "There is no run 'fashion-gna'" in result.stderr
        assert "did you mean 'fashion-gan'?" in result.stderr


def test_show_has_the_checkpoints_and_the_place(distgen, storage):
    run = make_run(storage, "tiny", "started", "checkpoint")
    for clock in (64, 128):
        (run.checkpoints / f"{clock:012d}" / "manifest.json").write_json({})
    shown = json.loads(distgen("runs", "show", "tiny", "--storage", storage, "--json").stdout)
    assert shown["checkpoints"] == [64, 128]
    assert shown["location"] == str(run.location)
    text = distgen("runs", "show", str(run.location)).stdout
    assert "64, 128" in text
    assert "not written yet" in text


def test_events_of_a_run_newest_last_and_only_so_many(distgen, storage):
    make_run(storage, "tiny", "started", "checkpoint", "finished")
    lines = distgen("runs", "events", "tiny", "--storage", storage).stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["started", "checkpoint", "finished"]
    few = distgen("runs", "events", "tiny", "--storage", storage, "--last", "1", "--json")
    assert [row["event"] for row in json.loads(few.stdout)] == ["finished"]
    make_run(storage, "new")
    assert "Nothing has happened" in distgen("runs", "events", "new", "--storage", storage).stdout


def test_a_run_that_may_be_running_is_not_deleted_unless_forced(distgen, storage):
    run = make_run(storage, "busy", "started")
    refused = distgen("runs", "rm", "busy", "--storage", storage, "--yes")
    assert refused.returncode == 2
    assert "may be running" in refused.stderr
    assert "--force" in refused.stderr
    assert run.job_file.is_file()
    forced = distgen("runs", "rm", "busy", "--storage", storage, "--yes", "--force", "--json")
    assert json.loads(forced.stdout) == {"deleted": str(run.location)}
    assert not run.location.is_dir()


def test_nothing_is_deleted_without_an_answer(storage):
    run = make_run(storage, "done", "started", "finished")
    command = [sys.executable, "-m", "distgen", "runs", "rm", "done", "--storage", storage]
    asked = subprocess.run(command, input="", capture_output=True, text=True)
    assert asked.returncode != 0
    assert run.job_file.is_file()
