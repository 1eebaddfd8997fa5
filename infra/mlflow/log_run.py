"""Copy what a run has told so far into MLflow: its job, curves, quality cards and report.

    pip install 'distgen[mlflow]'
    MLFLOW_TRACKING_URI=http://mlflow:5000 python infra/mlflow/log_run.py runs/fashion-gan

The same command again adds what is new. MLflow's step is the run's clock, images seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from distgen.core.config import flatten
from distgen.core.storage import locate
from distgen.training.run import RunFolder

PLACE = "distgen.run"
"""Tag by which a run is found again."""
CLOCK = "distgen.images_seen"
"""Tags, one per stage, that say how far a run has been copied."""
STAGES = ("train", "health", "card")
MAX_PARAMS = 100
MAX_METRICS = 1000
"""What MLflow takes in one request."""


def points(rows: list[dict[str, Any]], copied: Mapping[str, int]) -> Iterator[Metric]:
    """Figures of a run's metrics.jsonl beyond the clock of their stage, as MLflow wants them."""
    for row in rows:
        if row["images_seen"] > copied.get(row["stage"], -1):
            for name, value in figures(row).items():
                yield Metric(name, float(value), int(row["time"] * 1000), row["images_seen"])


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """What one line of metrics.jsonl says, by name."""
    stage = row["stage"]
    if stage == "train":
        speed = {name: row[name] for name in ("images_per_s", "data_wait", "memory_gib")}
        return {**row["losses"], **speed}
    if stage in ("card", "health"):
        return {f"{stage}/{name}": value for name, value in row[stage].items()}
    return {}


def copy(place: str, experiment: str) -> str:
    """Copy the run at `place` into an experiment; returns MLflow's id of it."""
    folder, client = RunFolder(locate(place)), MlflowClient()
    job = folder.job()
    known = client.get_experiment_by_name(experiment)
    number = known.experiment_id if known else client.create_experiment(experiment)
    address = folder.location.url
    found = client.search_runs([number], f"tags.`{PLACE}` = '{address}'")
    if found:
        run = found[0]
    else:
        run = client.create_run(number, run_name=job.name, tags={PLACE: address})
        settings = flatten(job.model_dump(mode="json"))
        params = [Param(name, str(value)) for name, value in settings.items()]
        for start in range(0, len(params), MAX_PARAMS):
            client.log_batch(run.info.run_id, params=params[start : start + MAX_PARAMS])
    rows = folder.metrics()
    tags = run.data.tags
    copied = {stage: int(tags.get(f"{CLOCK}.{stage}", -1)) for stage in STAGES}
    new = list(points(rows, copied))
    for start in range(0, len(new), MAX_METRICS):
        client.log_batch(run.info.run_id, metrics=new[start : start + MAX_METRICS])
    for row in rows:
        copied[row["stage"]] = max(copied.get(row["stage"], -1), row["images_seen"])
    clocks = [RunTag(f"{CLOCK}.{stage}", str(clock)) for stage, clock in copied.items()]
    client.log_batch(run.info.run_id, tags=clocks)
    for file in (folder.report, folder.card):
        if file.is_file():
            client.log_text(run.info.run_id, file.read_text(), file.name)
    if (folder.bundle / "manifest.json").is_file():
        client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder or URL of a run")
    parser.add_argument("--experiment", default="distgen")
    arguments = parser.parse_args()
    print(copy(arguments.run, arguments.experiment))
