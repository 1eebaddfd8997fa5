"""The command line as a person or a script meets it: what it prints, and its exit codes."""

import errno
import json
import subprocess
import sys

import numpy as np
import pytest

from distgen.cli.main import report
from distgen.core.config import dump_yaml, override, parse, read_job_file
from distgen.core.errors import UsageError
from distgen.core.storage import locate
from distgen.registry import write_bundle
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder
from tests.unit.registry.small_bundles import GAN, SPEC, state_of

JOB = """
kind: train
name: tiny
storage: {storage}
data: {{shards: {shards}, lanes: 4, shuffle_window: 256}}
model: {{family: vae, latent_dim: 4, width: 8}}
training: {{images: 128, batch_size: 32, log_every: 32}}
evaluation: {{samples: 64, extractors: [pixel-pca64], importance_samples: 2, likelihood_images: 8}}
"""


@pytest.fixture
def job_file(tmp_path, digits) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(JOB.format(storage=tmp_path / "runs", shards=digits))
    return str(file)


def test_help_lists_every_command(distgen):
    result = distgen("--help")
    assert result.returncode == 0
    for word in (
        "data", "demo", "train", "evaluate", "tune", "runs", "models", "serve", "sample", "query",
        "endpoint", "generate", "submit", "jobs", "cluster", "plan", "config", "bench",
    ):  # fmt: skip
        assert f" {word} " in result.stdout


def test_train_then_the_same_again_then_look_at_it(distgen, job_file, tmp_path):
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


def test_dry_run_says_what_would_happen_and_writes_nothing(distgen, job_file, tmp_path):
    result = distgen("train", job_file, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "parameters" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_dry_run_refuses_what_the_run_would_be_refused_for(distgen, job_file, tmp_path):
    unfit = distgen("train", job_file, "evaluation.classification={}", "--dry-run")
    assert (unfit.returncode, "class-conditional" in unfit.stderr) == (2, True)
    assert distgen("train", job_file).returncode == 0
    other = distgen("train", job_file, "training.seed=7", "--dry-run")
    assert (other.returncode, "training.seed: 0 in the run" in other.stderr) == (2, True)
    assert distgen("train", job_file, "training.seed=7", "--dry-run", "--fresh").returncode == 0


def test_a_set_of_clips_is_refused_before_anything_is_written(distgen, job_file, tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "ab":
        np.save(tmp_path / "videos" / f"{name}.npy", np.zeros((8, 16, 16), np.uint8))
    clips = str(tmp_path / "clips")
    built = distgen("data", "build", str(tmp_path / "videos"), clips, "--frames", "4")
    assert built.returncode == 0, built.stderr
    for option in ("--dry-run", "scaling.workers=0"):
        result = distgen("train", job_file, f"data.shards={clips}", option)
        assert result.returncode == 2
        assert "makes single pictures, not clips of 4 frames of 16x16 L" in result.stderr
    mixed = f"data.mix=[{{shards: {clips}}}]"
    assert "differ in frames" in distgen("train", job_file, mixed, "scaling.workers=0").stderr
    assert not (tmp_path / "runs").exists()
    write_bundle(
        locate(tmp_path / "bundle"),
        model_config=GAN,
        spec=SPEC,
        state=state_of(GAN, SPEC, 0),
        card=None,
        samples_png=None,
        name="small",
        images_seen=1,
    )
    result = distgen("evaluate", f"{tmp_path}/bundle", "--shards", clips)
    assert result.returncode == 2
    assert "makes pictures of 16x16 L; the shard set holds clips of 4 frames" in result.stderr


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
def test_bad_requests_end_with_2_and_name_the_thing_and_the_remedy(
    distgen, job_file, override, words
):
    result = distgen("train", job_file, *override.split())
    assert result.returncode == 2, result.stderr
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_a_set_without_a_manifest_is_refused(distgen, job_file, tmp_path):
    (tmp_path / "half" / "train").mkdir(parents=True)
    (tmp_path / "half" / "train" / "train-000000.tar").write_bytes(b"")
    result = distgen("train", job_file, f"data.shards={tmp_path}/half")
    assert result.returncode == 2
    assert "manifest" in result.stderr


def test_a_changed_job_is_refused_with_the_difference(distgen, job_file):
    assert distgen("train", job_file).returncode == 0
    result = distgen("train", job_file, "model.latent_dim=5")
    assert result.returncode == 2
    assert "model.latent_dim: 4 in the run, 5 now" in result.stderr
    assert "--fresh" in result.stderr


def test_config_show_prints_a_job_that_reads_back(distgen, job_file, tmp_path):
    shown = distgen("config", "show", job_file, "training.seed=3")
    assert shown.returncode == 0, shown.stderr
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(shown.stdout)
    assert distgen("config", "diff", str(resolved), str(resolved)).stdout == ""
    difference = distgen("config", "diff", job_file, str(resolved)).stdout
    assert difference.strip() == "training.seed: 0 -> 3"


def test_config_schema_explains_every_section(distgen):
    text = distgen("config", "schema", "train").stdout
    for key in ("latent_dim", "r1", "beta", "images", "workers", "lanes", "samples"):
        assert key in text
    assert "properties" in json.loads(distgen("config", "schema", "train", "--json").stdout)
    assert distgen("config", "schema", "trian").returncode == 2


def test_unknown_commands_and_options_end_with_2(distgen):
    assert distgen("trian").returncode == 2
    assert distgen("train").returncode == 2
    assert distgen("runs", "show", "no-such-run").returncode == 2


def test_a_traceback_is_shown_only_when_asked_for(distgen):
    assert "Traceback" not in distgen("config", "show", "nowhere.yaml").stderr
    with pytest.raises(UsageError, match=r"no job file 'nowhere\.yaml'"):
        distgen("--debug", "config", "show", "nowhere.yaml")


def test_a_process_ends_with_the_code_and_speaks_on_stderr():
    command = [sys.executable, "-m", "distgen", "config", "show", "nowhere.yaml"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert "no job file 'nowhere.yaml'" in result.stderr


def test_brackets_and_colons_in_names_are_printed_as_they_are(distgen, job_file, tmp_path):
    for word in ("[x]", "[/x]", ":dog:", "run[1]"):
        assert f"There is no run '{word}'." in distgen("runs", "show", word).stderr
        assert f"No runs in {word}" in distgen("runs", "ls", "--storage", word).stdout
    storage = tmp_path / "[bold]:dog:[/x]"
    (storage / "[red]").mkdir(parents=True)
    dry = distgen("train", job_file, f"storage='{storage}'", "--dry-run")
    assert f"tiny would be trained into {storage}/tiny" in dry.stdout
    assert distgen("models", "ls", "--root", str(storage)).returncode == 0


def test_a_table_in_a_pipe_is_not_cut(distgen, job_file, tmp_path):
    job = RunFolder(locate(tmp_path / "runs" / ("long-name-" * 6 + "end")))
    raw = override(read_job_file(job_file), [f"name={job.location.name}"])
    job.job_file.write_text(dump_yaml(parse(TrainJob, raw, job_file)))
    lines = distgen("runs", "ls", "--storage", str(tmp_path / "runs")).stdout.splitlines()
    assert any(job.location.name in line and "prepared" in line for line in lines)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, ["permission denied", "/some/place", "ls -ld"]),
        (errno.ENOSPC, ["no space left", "/some/place", "df -h"]),
    ],
)
def test_places_that_cannot_be_used_end_with_2(capsys, code, words):
    assert report(OSError(code, "as Python has it", "/some/place")) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said


def test_unusable_paths_in_commands_end_with_2_and_name_the_path(distgen, job_file, digits):
    for arguments in (
        ("train", job_file, "storage=/proc/x"),
        ("train", job_file, f"storage={job_file}"),
        ("data", "preview", digits, "--out", digits),
    ):
        result = distgen(*arguments)
        assert result.returncode == 2, result.stderr
        assert arguments[-1].removeprefix("storage=") in result.stderr
        assert "try:" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "cluster up --port 70000",
        "cluster up --port 0",
        "cluster up --dashboard-port 70000",
        "cluster up --cpus 0.5",
        "cluster up --gpus 0.5",
        "cluster up --nodes 0",
        "demo --port 70000",
        "jobs ls --address http://h:99999",
        "jobs ls --address http://[bad",
        "train JOB scaling.workers=1 --address 127.0.0.1:99999",
        "runs ls --storage s3://",
    ],
)
def test_what_no_machine_has_ends_with_2(distgen, job_file, arguments):
    result = distgen(*arguments.replace("JOB", job_file).split())
    assert result.returncode == 2, result.stderr
    assert "unexpected" not in result.stderr
