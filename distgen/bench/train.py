"""Training speed: distgen on Ray Train workers against a hand-written DDP loop, side by side.

Both sides run in fresh processes, in turn, with the same threads per rank, and both are timed
between two points in the middle of training, so that starting up counts for neither.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgen.bench.hand_written import OBJECTIVES, hand_written
from distgen.bench.ranks import on_ranks
from distgen.bench.short import short
from distgen.core.errors import UsageError
from distgen.data import open_shard_set, read_samples
from distgen.metrics.request import EvaluationConfig
from distgen.training.job import TrainJob
from distgen.training.run import prepare

FAMILY_JOBS = {
    "gan": "jobs/fashion-gan.yaml",
    "vae": "jobs/fashion-vae.yaml",
    "rvae": "jobs/fashion-rvae.yaml",
}
"""The job by which each family's speed is measured."""


def bench_families(jobs: Sequence[TrainJob], *, images: int, rounds: int = 3) -> dict[str, Any]:
    """`bench_train` of each job: all results by family, and as `ratio` the lowest of theirs."""
    for job in jobs:
        _refuse_unknown(job, images)
    results: dict[str, Any] = {
        job.model.family: bench_train(job, images=images, rounds=rounds) for job in jobs
    }
    lowest = min(result["ratio"] for result in results.values())
    return {"ratio": lowest, **results}


def bench_train(job: TrainJob, *, images: int, rounds: int = 3) -> dict[str, Any]:
    """images/s of `job` on its Ray Train workers over images/s of the hand-written loop.

    Args:
        job: A training job; its networks, batch size and workers are used on both sides. The
            hand-written loop knows relativistic GANs with R1 + R2 and plain latent-variable models.
        images: Images per measurement.
        rounds: Measurements of each side, in turn.

    Returns:
        `ratio` of the medians, both medians, and every single measurement.

    Raises:
        UsageError: The hand-written loop does not know this job's objective, or runs no GPUs.
    """
    _refuse_unknown(job, images)
    workers = job.scaling.most
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        theirs.append(_hand_written(job, workers, images))
        ours.append(distgen_speed(job, workers, images))
    return {
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "distgen_images_per_s": statistics.median(ours),
        "hand_written_images_per_s": statistics.median(theirs),
        "distgen_runs": ours,
        "hand_written_runs": theirs,
        "family": job.model.family,
        "workers": workers,
        "batch_size": job.training.batch_size,
        "images": images,
    }


def _refuse_unknown(job: TrainJob, images: int) -> None:
    if job.objective.kind not in OBJECTIVES:
        raise UsageError(
            f"The hand-written loop has no {job.objective.kind} objective.",
            remedy="measure with objective.kind=relativistic, or a VAE's or RVAE's job",
        )
    if job.training.accumulate > 1 or getattr(job.objective, "augmentation", None):
        raise UsageError(
            "The hand-written loop takes whole steps and changes no pictures.",
            remedy="measure with training.accumulate=1, and without objective.augmentation",
        )
    if job.scaling.gpus_per_worker:
        raise UsageError("The hand-written loop runs on CPUs.", remedy="scaling.gpus_per_worker=0")
    if images < job.training.batch_size:
        raise UsageError(
            f"{images} images are less than one batch of {job.training.batch_size}.",
            remedy=f"--images {100 * job.training.batch_size}",
        )


def distgen_speed(job: TrainJob, workers: int, images: int) -> float:
    """images/s of `job` on so many Ray Train workers, between two points of its curves."""
    from distgen.launch import train as launch

    batch = job.training.batch_size
    with tempfile.TemporaryDirectory() as storage:
        warmup = _warmup_images(images, batch)
        bench_job = short(
            job, name="bench", storage=storage, images=images + warmup, log_every=warmup
        ).model_copy(
            update={
                "scaling": job.scaling.model_copy(update={"workers": workers}),
                "evaluation": EvaluationConfig(samples=64, importance_samples=1),
            }
        )
        fingerprint = open_shard_set(job.data.shards, "train").fingerprint
        run = prepare(bench_job, fingerprint)
        launch.run(bench_job)
        rows = [row for row in run.metrics() if row["stage"] == "train"]
    # The last point is written before the checkpoint, not after it.
    first, last = rows[0], rows[-1]
    return float((last["images_seen"] - first["images_seen"]) / (last["time"] - first["time"]))


def _warmup_images(images: int, batch_size: int) -> int:
    """Images that are not counted, in whole batches: first steps allocate, and Ray starts up."""
    return max(2, images // 10 // batch_size) * batch_size


def _hand_written(job: TrainJob, workers: int, images: int) -> float:
    shard_set = open_shard_set(job.data.shards, "train")
    count = min(shard_set.num_samples, 20_000)
    pictures, labels = read_samples(shard_set, np.arange(count))
    batch = job.training.batch_size
    warmup, steps = _warmup_images(images, batch) // batch, images // batch
    threads = max(1, int(job.scaling.cpus_per_worker))
    arguments = (job.model_dump(mode="json"), shard_set.spec, pictures, labels, warmup, steps)
    return float(on_ranks(workers, hand_written, *arguments, threads=threads))
