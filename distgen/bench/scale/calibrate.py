"""A job's own step and the links of this machine, measured for a few seconds.

The trainer itself takes the steps, on this machine's device, in processes that do not wait for one
another. As many run side by side as a host has ranks and this machine has room for: ranks of a host
share its memory's bandwidth, and its cores' clock and caches, whether they exchange gradients or
not.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from distgen.bench.profile import CudaClock, HostClock, Spans
from distgen.bench.ranks import on_ranks
from distgen.bench.scale.compute import Compute, Point, from_points
from distgen.bench.scale.links import Link, Memory, gone_through
from distgen.core.spans import recording
from distgen.core.world import World
from distgen.training.all_reduce import NUMBERS, timed_sum
from distgen.training.collective import Collective
from distgen.training.job import TrainingConfig, TrainJob
from distgen.training.process import suited
from distgen.training.run import open_pictures, prepare
from distgen.training.shared_memory import MOST_BYTES, TURNS, SharedMeans, shared_means
from distgen.training.trainer import Trainer

WARMUP_STEPS = 4
LEAST_STEPS = 4
_SMALL, _SMALL_ROUNDS, _LARGE_ROUNDS = 256, 200, 9
_NEVER = 10**12
"""Images: nothing but steps lies in what is measured."""


@dataclass(frozen=True)
class _Measured:
    """What one rank found."""

    steps: int
    seconds: float
    cpu_seconds: float
    parts: dict[str, float]


def room_here(job: TrainJob) -> int:
    """Ranks of this job that this machine has devices for."""
    if uses_gpus(job):
        return torch.cuda.device_count()
    return max(1, cores_here() // _threads(job))


def cores_here() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def uses_gpus(job: TrainJob) -> bool:
    """Whether workers of this job would compute on GPUs of this machine."""
    wanted = job.scaling.gpus_per_worker > 0 or not job.scaling.workers
    return wanted and torch.cuda.device_count() > 0


def calibrate(
    job: TrainJob,
    batches: Sequence[int],
    *,
    side_by_side: int,
    seconds: float = 3.0,
    on_message: Callable[[str], None] = lambda _: None,
) -> Compute:
    """What a step of `job` costs a rank that waits for nobody.

    Args:
        job: A training job.
        batches: Images of one rank's step: each is measured.
        side_by_side: Processes that train at once.
        seconds: For each measurement, and longer where a few steps take longer.
        on_message: Told what is being done.
    """
    on_cuda = uses_gpus(job)
    points: list[Point] = []
    parts: dict[str, float] = {}
    for images in sorted(set(batches)):
        on_message(f"measuring steps of {images} images, {side_by_side} at once")
        found = _measure(job, images, side_by_side, seconds, on_cuda=on_cuda)
        cpu_s = 0.0 if on_cuda else found.cpu_seconds / found.steps
        points.append(Point(images, found.seconds / found.steps, cpu_s))
        parts = found.parts
    device = torch.cuda.get_device_name() if on_cuda else "cores of this machine"
    sizes = " and ".join(str(point.images) for point in points)
    return from_points(
        points,
        parts,
        batch=points[-1].images,
        overlaps=on_cuda,
        source=f"steps of {sizes} images measured on {device}, {side_by_side} at once",
    )


def calibrate_link(ranks: int = 2) -> Link:
    """Latency and bandwidth between `ranks` processes of this machine, by sums of two sizes."""
    small_s, large_s = on_ranks(ranks, _sums)
    messages = 2 * (ranks - 1)
    # Two sums of a straight line over bytes; the small one's own bytes take no time to speak of.
    return Link(small_s / messages, _rate(messages / ranks * 4 * NUMBERS, small_s, large_s))


def calibrate_memory(size_bytes: int) -> Memory | None:
    """What two processes of this machine take for means in memory that they share, at two sizes.

    Args:
        size_bytes: Of the gradients that are to be averaged: what does not fit into caches takes
            longer. At least 4 MB are.

    Returns:
        None, where processes of this machine share none.
    """
    numbers = max(NUMBERS, min(size_bytes, MOST_BYTES) // 4)
    found = on_ranks(2, _means, numbers)
    if found is None:
        return None
    small_s, large_s = found
    return Memory(small_s, _rate(gone_through(2) * 4 * numbers, small_s, large_s))


def _rate(size: float, small_s: float, large_s: float) -> float:
    """Bytes per second of what takes `small_s` with next to none and `large_s` with `size` bytes.

    On a machine that had other things to do the large one may come out shorter: then all is it.
    """
    return size / (large_s - small_s if large_s > small_s else large_s)


def _means(world: World, large: int) -> tuple[float, float] | None:
    gather = Collective(world).gather_list
    seconds = []
    for numbers, rounds in ((_SMALL, _SMALL_ROUNDS), (large, _LARGE_ROUNDS)):
        values = torch.ones(numbers)
        means = shared_means(world, nn.ParameterList([values]), gather)
        if means is None:
            return None
        seconds.append(_timed_means(means, _Bucket(values), rounds))
    return seconds[0], seconds[1]


def _timed_means(means: SharedMeans, bucket: _Bucket, rounds: int) -> float:
    """Seconds of the median mean, after as many as fill all memory once."""
    times = []
    for _ in range(rounds + TURNS):
        dist.barrier()
        begin = time.perf_counter()
        means(bucket).wait()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[TURNS:])


@dataclass(frozen=True)
class _Bucket:
    """What torch hands to a hook of a network whose gradients fill one bucket."""

    gradients: torch.Tensor

    def buffer(self) -> torch.Tensor:
        return self.gradients

    def is_last(self) -> bool:
        return True


def _sums(world: World) -> tuple[float, float]:  # noqa: ARG001 - all ranks do the same
    return timed_sum(_SMALL, _SMALL_ROUNDS), timed_sum(NUMBERS, _LARGE_ROUNDS)


def _measure(job: TrainJob, images: int, ranks: int, seconds: float, *, on_cuda: bool) -> _Measured:
    with tempfile.TemporaryDirectory(prefix="distgen-plan-") as storage:
        values = job.training.model_dump() | {
            "batch_size": images,
            "images": _NEVER,
            "log_every": _NEVER,
            "checkpoint_every": _NEVER,
            "evaluate_every": _NEVER,
        }
        measured = job.model_copy(
            update={"storage": storage, "training": TrainingConfig(**values)}
        ).with_workers(1)
        backend = "nccl" if on_cuda else "gloo"
        found: _Measured = on_ranks(
            ranks, _steps, measured, on_cuda, seconds, threads=_threads(job), backend=backend
        )
        return found


def _steps(world: World, job: TrainJob, on_cuda: bool, seconds: float) -> _Measured:
    """Steps of one rank that has its whole batch for itself."""
    device = torch.device("cuda", world.rank) if on_cuda else torch.device("cpu")
    job = job.model_copy(update={"name": f"{job.name}-{world.rank}"})
    prepare(job, open_pictures(job).fingerprint)
    trainer = Trainer(job, World(), device, lambda _: False)
    with suited(device), trainer.open_stream() as stream:
        for _ in range(WARMUP_STEPS):
            trainer.advance(stream)
        _wait_for_device(device)
        dist.barrier()
        clock: Any = CudaClock() if on_cuda else HostClock()
        spans = Spans(clock)
        steps, begin, cpu_begin = 0, time.perf_counter(), time.process_time()
        with recording(spans):
            while steps < LEAST_STEPS or time.perf_counter() - begin < seconds:
                trainer.advance(stream)
                steps += 1
        _wait_for_device(device)
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
        parts = spans.totals()
    trainer.keeper.settle()
    if trainer.curves is not None:
        trainer.curves.close()
    return _Measured(steps, took, cpu, parts)


def _wait_for_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _threads(job: TrainJob) -> int:
    return max(1, int(job.scaling.cpus_per_worker))
