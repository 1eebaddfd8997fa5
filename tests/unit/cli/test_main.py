"""The command line as a person or a script meets it: real processes, real exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
kind: train
name: tiny
storage: {storage}
data: {{shards: {shards}, lanes: 4, shuffle_window: 256}}
model: {{family: vae, latent_dim: 4, width: 8}}
training: {{images: 128, batch_size: 32, log_every: 32}}
evaluation: {{samples: 64, extractors: [pixel-pca64], importance_samples: 2, likelihood_images: 8}}
"""


def distgen(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distgen", *arguments], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture
def job_file(tmp_path, digits) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(JOB.format(storage=tmp_path / "runs", shards=digits))
    return str(file)


def test_help_lists_every_command():
    result = distgen("--help")
    assert result.returncode == 0
    for word in (
        "data", "demo", "train", "evaluate", "tune", "runs", "models", "serve", "query", "endpoint",
        "generate", "submit", "jobs", "cluster", "config", "bench",
    ):  # fmt: skip
        assert f" {word} " in result.stdout


def test_train_then_the_same_again_then_look_at_it(job_file, tmp_path):
    first = distgen("train", job_file, "--json")
    assert first.returncode == 0, first.stderr
    outcome = json.loads(first.stdout)
    assert outcome["images_seen"] == 128
    assert "128/128 images" in first.stderr
    again = distgen("train", job_file, "--json")
    assert json.loads(again.stdout) == outcome
    assert "already" in again.stderr
    listed = json.loads(distgen("runs", "ls", "--storage", f"{tmp_path}/runs", "--json").stdout)
    assert [(row["name"], row["state"]) for row in listed] == [("tiny", "finished")]
    events = distgen("runs", "events", f"{tmp_path}/runs/tiny").stdout
    assert "started" in events
    assert "finished" in events


def test_dry_run_says_what_would_happen_and_writes_nothing(job_file, tmp_path):
    result = distgen("train", job_file, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "parameters" in result.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.imagse=5", ["training.imagse", "'images'"]),
        ("training.images=many", ["training.images", "many"]),
        ("model.family=gann", ["model.family", "'gan'"]),
        ("objective.kind=hinge", ["hinge", "vae"]),
        ("data.shards=nowhere", ["nowhere", "distgen data build"]),
        ("training.batch_size=33 scaling.workers=2", ["33", "32 or 34"]),
        ("name=../escape", ["name"]),
        ("training", ["training", "section.key=value"]),
    ],
)
def test_bad_requests_end_with_2_and_name_the_thing_and_the_remedy(job_file, override, words):
    result = distgen("train", job_file, *override.split())
    assert result.returncode == 2, result.stderr
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_a_set_without_a_manifest_is_refused(job_file, tmp_path):
    (tmp_path / "half" / "train").mkdir(parents=True)
    (tmp_path / "half" / "train" / "train-000000.tar").write_bytes(b"")
    result = distgen("train", job_file, f"data.shards={tmp_path}/half")
    assert result.returncode == 2
    assert "manifest" in result.stderr


def test_a_changed_job_is_refused_with_the_difference(job_file):
    assert distgen("train", job_file).returncode == 0
    result = distgen("train", job_file, "model.latent_dim=5")
    assert result.returncode == 2
    assert "model.latent_dim: 4 in the run, 5 now" in result.stderr
    assert "--fresh" in result.stderr


def test_config_show_prints_a_job_that_reads_back(job_file, tmp_path):
    shown = distgen("config", "show", job_file, "training.seed=3")
    assert shown.returncode == 0, shown.stderr
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(shown.stdout)
    assert distgen("config", "diff", str(resolved), str(resolved)).stdout == ""
    difference = distgen("config", "diff", job_file, str(resolved)).stdout
    assert difference.strip() == "training.seed: 0 -> 3"


def test_config_schema_explains_every_section():
    text = distgen("config", "schema", "train").stdout
    for key in ("latent_dim", "r1", "beta", "images", "workers", "lanes", "samples"):
        assert key in text
    assert "properties" in json.loads(distgen("config", "schema", "train", "--json").stdout)
    assert distgen("config", "schema", "trian").returncode == 2


def test_unknown_commands_and_options_end_with_2():
    assert distgen("trian").returncode == 2
    assert distgen("train").returncode == 2
    assert distgen("runs", "show", "no-such-run").returncode == 2


def test_a_traceback_is_shown_only_when_asked_for(job_file):
    plain = distgen("train", job_file, "data.shards=nowhere")
    debug = distgen("--debug", "train", job_file, "data.shards=nowhere")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
