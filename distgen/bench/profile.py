"""Where a training step's time goes, on the ranks of a job and without Ray.

On CPUs it is read from the clock, on CUDA from events in the stream: there a span's time is what
the device took from the end of the span before, so waiting for the host counts for whoever waits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from distgen.bench.ranks import on_ranks
from distgen.bench.short import short
from distgen.core.config import parse
from distgen.core.errors import UsageError
from distgen.core.spans import recording
from distgen.core.world import World
from distgen.training.job import TrainJob
from distgen.training.process import suited
from distgen.training.run import open_pictures, prepare
from distgen.training.shared_memory import EXCHANGE
from distgen.training.trainer import Trainer

OTHER = "everything else"
WARMUP_STEPS = 5


class Clock(Protocol):
    """Points in time, and what lies between two of them."""

    def now(self) -> Any:
        """The time by this clock."""
        ...

    def seconds(self, begin: Any, end: Any) -> float:
        """Seconds from one point to another; asked for when all is over."""
        ...


class HostClock:
    """The clock of this process."""

    def now(self) -> float:
        """Seconds from some point on."""
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        """Their difference."""
        return end - begin


class CudaClock:
    """Events in the current stream."""

    def now(self) -> torch.cuda.Event:
        """An event behind all work that is queued."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """What the device took from one to the other."""
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000.0


@dataclass
class _Open:
    name: str
    tail: str | None = None


class Spans:
    """A `Recorder` that gives every moment to one name: the innermost span that is open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open = [_Open(OTHER)]
        self._pieces: list[tuple[str, Any, Any]] = []
        self._since = clock.now()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """What is done inside counts for `name`, and no longer for the span around it."""
        self._turn()
        self._open.append(_Open(name))
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def tail(self, name: str) -> None:
        """From the last call of this in a span until its end, the time counts for `name`."""
        self._open[-1].tail = None
        self._turn()
        self._open[-1].tail = name

    def totals(self) -> dict[str, float]:
        """Seconds by name up to now, in the order in which names were met."""
        self._turn()
        totals: dict[str, float] = {}
        for name, begin, end in self._pieces:
            totals[name] = totals.get(name, 0.0) + self._clock.seconds(begin, end)
        totals[OTHER] = totals.pop(OTHER, 0.0)
        return totals

    def _turn(self) -> None:
        innermost, now = self._open[-1], self._clock.now()
        self._pieces.append((innermost.tail or innermost.name, self._since, now))
        self._since = now


def bench_profile(job: TrainJob, *, images: int) -> dict[str, Any]:
    """Milliseconds of a step of `job` by what they are spent on, on rank 0.

    Args:
        job: A training job; `scaling` says how many ranks share this machine.
        images: Images over which the times are averaged.

    Returns:
        `step_ms`, `images_per_s`, and `parts`: milliseconds by name, which add up to a step.

    Raises:
        UsageError: The shard set is missing, or there are fewer GPUs than ranks.
    """
    workers, batch = job.scaling.most, job.training.batch_size
    on_cuda = bool(torch.cuda.device_count()) and (
        job.scaling.gpus_per_worker > 0 or not job.scaling.workers
    )
    if on_cuda and torch.cuda.device_count() < workers:
        raise UsageError(
            f"{workers} ranks want a GPU each, and here are {torch.cuda.device_count()}.",
            remedy=f"scaling.workers={torch.cuda.device_count()}",
        )
    steps = max(2, images // batch)
    length = (WARMUP_STEPS + steps + 1) * batch  # the end of a run is none of a step's business
    with tempfile.TemporaryDirectory() as storage:
        profiled = short(
            job,
            name="profile",
            storage=storage,
            images=length,
            log_every=max(batch, length // 10),
        )
        prepare(profiled, open_pictures(profiled).fingerprint)
        totals: dict[str, float] = on_ranks(
            workers,
            _profile,
            profiled.model_dump(mode="json"),
            on_cuda,
            steps,
            threads=max(1, int(job.scaling.cpus_per_worker)),
            backend="nccl" if on_cuda else "gloo",
        )
    step_s = sum(totals.values()) / steps
    return {
        "family": job.model.family,
        "workers": workers,
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        "batch_size": batch,
        "steps": steps,
        "images_per_s": batch / step_s,
        "step_ms": 1000 * step_s,
        "parts": {name: 1000 * seconds / steps for name, seconds in totals.items()},
    }


def _profile(
    world: World, raw_job: Mapping[str, Any], on_cuda: bool, steps: int
) -> dict[str, float]:
    job = parse(TrainJob, raw_job, "the job")  # plain data: schedules do not travel
    device = torch.device("cuda", world.rank) if on_cuda else torch.device("cpu")
    trainer = Trainer(job, world, device, lambda _: False)
    measured: list[Spans] = []

    def exchange(bucket: Any) -> torch.futures.Future[torch.Tensor]:
        if measured:
            measured[0].tail(EXCHANGE)
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    for name, replica in trainer.replicas.items():
        if name in trainer.collective.in_shared_memory:
            continue  # which tells of it itself
        if isinstance(replica, DistributedDataParallel):
            # torch reads the annotations of hooks, and wants them to be types.
            replica.register_comm_hook(None, lambda _, bucket: exchange(bucket))
    with suited(device), trainer.open_stream() as stream:
        for _ in range(WARMUP_STEPS):
            trainer.advance(stream)
        measured.append(Spans(CudaClock() if on_cuda else HostClock()))
        with recording(measured[0]):
            for _ in range(steps):
                trainer.advance(stream)
        totals = measured[0].totals()
    trainer.keeper.settle()
    if trainer.curves is not None:
        trainer.curves.close()
    return totals
