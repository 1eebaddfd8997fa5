"""A search tries what it was told to, keeps the best, and can be gone on with."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from distgen.core.config import parse, read_job_file
from distgen.core.errors import PreemptedError, UsageError
from distgen.data import open_shard_set
from distgen.training.job import TrainJob
from distgen.training.local import train_here
from distgen.training.run import RunFolder, prepare
from distgen.tune import tuner
from distgen.tune.folder import Trial
from distgen.tune.job import TuneJob
from tests.ray.conftest import MakeJob

pytestmark = pytest.mark.usefixtures("ray_cluster")

METRIC = "frechet_distance/pixel-pca64"


def make_search(make_job: MakeJob, tmp_path: Path, **search: Any) -> TuneJob:
    train_job = make_job("vae", scaling__workers=1, training__evaluate_every=320)
    raw = {
        "name": "search",
        "storage": str(tmp_path / "searches"),
        "train": {**train_job.model_dump(mode="json"), "name": "best"},
        "search": search,
    }
    return parse(TuneJob, raw, "a test")


def test_asha_ends_the_worse_trial_and_the_best_becomes_a_job_file_that_trains(
    make_job: MakeJob, tmp_path: Path
) -> None:
    rates = [3.0e-3, 1.0e-7]
    job = make_search(
        make_job,
        tmp_path,
        space={"training.learning_rate": {"choice": rates}},
        algorithm="grid",
        reduction=2,
        max_concurrent=1,
    )
    outcome = tuner.run(job)
    good, bad = outcome.trials
    assert (good.status, bad.status) == ("finished", "stopped")
    assert bad.images_seen < job.train.training.images
    assert RunFolder(job.location / "trials" / "trial-0001").events()[-1]["event"] == "stopped"
    assert not any(psutil.pid_exists(pid) for pid in worker_pids(job, 1)), "its workers have ended"
    assert outcome.best.value == good.value
    assert outcome.best.point == {"training.learning_rate": rates[0]}

    table = pq.read_table(Path(outcome.folder) / "trials.parquet").to_pylist()
    assert [row["training.learning_rate"] for row in table] == rates
    assert [row[METRIC] for row in table] == [trial.value for trial in outcome.trials]
    assert "best.yaml" in (Path(outcome.folder) / "report.html").read_text()

    best = parse(TrainJob, read_job_file(outcome.best_job), "best.yaml")
    assert best.training.learning_rate == rates[0]
    fingerprint = open_shard_set(best.data.shards, "train").fingerprint
    assert prepare(best, fingerprint)
    assert train_here(best).images_seen == best.training.images

    again = tuner.run(job)
    assert again == outcome, "a finished search is only read"


@pytest.mark.slow
def test_interrupted_search_goes_on_where_it_was(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_search(
        make_job,
        tmp_path,
        space={"training.learning_rate": {"loguniform": [1e-4, 1e-2]}},
        trials=2,
        algorithm="optuna",
        scheduler="none",
        max_concurrent=1,
    )

    def interrupt(trials: list[Trial]) -> None:
        if any(trial.value is not None for trial in trials):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(PreemptedError):
        tuner.run(job, on_trials=once(interrupt), on_message=lambda _: None)
    with pytest.raises(UsageError, match="has been started before"):
        tuner.run(job)
    outcome = tuner.run(job, resume=True)
    assert [trial.status for trial in outcome.trials] == ["finished", "finished"]
    first = RunFolder(job.location / "trials" / "trial-0000")
    assert [e["event"] for e in first.events()].count("started") == 1, "its work was kept"


def once(action: Any) -> Any:
    """The same action until it has sent its signal."""
    sent: list[bool] = []

    def act(trials: list[Trial]) -> None:
        if not sent and any(trial.value is not None for trial in trials):
            sent.append(True)
            action(trials)

    return act


def worker_pids(job: TuneJob, number: int) -> list[int]:
    """The processes that trained a trial."""
    run = RunFolder(job.location / "trials" / f"trial-{number:04d}")
    running = [event for event in run.events() if event["event"] == "workers running"]
    assert running
    return [rank["pid"] for event in running for rank in event["ranks"]]


def test_trials_that_can_never_fit_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_search(make_job, tmp_path, space={"training.learning_rate": {"choice": [1e-3]}})
    scaling = job.train.scaling.model_copy(update={"workers": 4, "cpus_per_worker": 1000.0})
    wide = job.model_copy(update={"train": job.train.model_copy(update={"scaling": scaling})})
    with pytest.raises(UsageError, match="do not fit"):
        tuner.run(wide)
