"""What a run has told is found again in MLflow, on the run's own clock, and once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from distgen.core.config import dump_yaml, parse
from distgen.core.storage import locate
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder, Tick

mlflow = pytest.importorskip("mlflow", reason="needs the extra: pip install 'distgen[mlflow]'")

SCRIPT = Path(__file__).parents[3] / "infra" / "mlflow" / "log_run.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    spec = importlib.util.spec_from_file_location("log_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    raw = {
        "name": "small",
        "storage": str(tmp_path / "runs"),
        "data": {"shards": "shards/digits"},
        "model": {"family": "vae", "latent_dim": 4, "width": 8},
        "training": {"images": 960, "batch_size": 16},
    }
    job = parse(TrainJob, raw, "a test")
    folder = RunFolder(job.location)
    folder.location.make_dir()
    folder.job_file.write_text(dump_yaml(job))
    tell(folder, 160, 5.0)
    return folder


def tell(folder: RunFolder, images_seen: int, loss: float) -> None:
    folder.log(
        Tick(
            stage="train",
            images_seen=images_seen,
            images=960,
            images_per_s=100.0,
            losses={"model/loss": loss},
        )
    )


def history(identity: str, name: str) -> list[tuple[int, float]]:
    found = mlflow.MlflowClient().get_metric_history(identity, name)
    return sorted((point.step, point.value) for point in found)


def test_copying_twice_adds_only_what_is_new(script: ModuleType, run: RunFolder) -> None:
    tell(run, 320, 4.0)
    first = script.copy(run.location.url, "tries")
    run.log_card(320, {"frechet_distance/pixel-pca64": 21.5})
    run.log_health(320, {"diversity": 0.5})
    run.report.write_text("<p>well</p>")
    again = script.copy(run.location.url, "tries")
    assert again == first
    assert history(first, "model/loss") == [(160, 5.0), (320, 4.0)]
    assert history(first, "images_per_s") == [(160, 100.0), (320, 100.0)]
    assert history(first, "card/frechet_distance/pixel-pca64") == [(320, 21.5)]
    assert history(first, "health/diversity") == [(320, 0.5)]
    kept = mlflow.MlflowClient().get_run(first)
    assert kept.data.params["model.latent_dim"] == "4"
    assert kept.info.status == "RUNNING"
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(first)] == ["report.html"]


def test_a_run_with_its_bundle_is_finished(script: ModuleType, run: RunFolder) -> None:
    (run.bundle / "manifest.json").write_json({})
    identity = script.copy(run.location.url, "tries")
    assert mlflow.MlflowClient().get_run(identity).info.status == "FINISHED"


def test_two_runs_of_one_name_are_two_runs(
    script: ModuleType, run: RunFolder, tmp_path: Path
) -> None:
    other = RunFolder(locate(tmp_path / "elsewhere" / "small"))
    other.location.make_dir()
    other.job_file.write_text(run.job_file.read_text())
    tell(other, 160, 7.0)
    one, two = (script.copy(each.location.url, "tries") for each in (run, other))
    assert one != two
    assert history(two, "model/loss") == [(160, 7.0)]
