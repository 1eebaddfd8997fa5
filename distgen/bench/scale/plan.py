"""`distgen plan`: what a job would do on more workers, from what is known and what is assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from distgen.bench.scale.calibrate import (
    calibrate,
    calibrate_link,
    calibrate_memory,
    cores_here,
    room_here,
    uses_gpus,
)
from distgen.bench.scale.compute import Compute, from_flops, from_report, from_times
from distgen.bench.scale.devices import Device, device_named
from distgen.bench.scale.links import Cluster, Link, Memory
from distgen.bench.scale.notes import notes_on
from distgen.bench.scale.predict import Assumptions, Row, Work, predict, refuse_uneven, scaled
from distgen.bench.scale.work import reads_too_much, refuse_workers, work_of
from distgen.core.errors import UsageError
from distgen.data.streaming.mixed import Pictures
from distgen.training.job import TrainJob

GPUS_PER_HOST = 8


@dataclass(frozen=True)
class Wishes:
    """What is asked about. Bandwidths in bytes per second."""

    workers: tuple[int, ...]
    network_bytes_per_s: float | None = None
    """Of a host, all its cards together; None: nobody has said."""
    per_host: int | None = None
    """Workers of a host; None: as many as there are GPUs, or cores for."""
    cores: int | None = None
    """Of a host; None: of this machine, where the job computes on CPUs and is measured here."""
    device: str | None = None
    """A GPU by name, in place of what is here."""
    step_ms: tuple[str, ...] = ()
    """Measured by the user: see `from_times`."""
    report: Mapping[str, Any] | None = None
    """Measured by `distgen bench train`: see `from_report`."""
    store_bytes_per_s: float | None = None
    """Of the store, for all hosts together."""
    scale_batch: bool = False
    """Whether to show also what a batch that grows with the workers would do."""
    assumptions: Assumptions = field(default_factory=Assumptions)

    @property
    def is_told(self) -> bool:
        """Whether the user says how fast a worker is."""
        return bool(self.step_ms) or self.report is not None


@dataclass(frozen=True)
class ScalePlan:
    """The predictions, and all that they stand on."""

    work: Work
    compute: Compute
    cluster: Cluster
    rows: tuple[Row, ...]
    """With the job's batch, of which each worker has a smaller part."""
    scaled_rows: tuple[Row, ...]
    """With a batch that grows with the workers, where that was asked for."""
    rank_batch: int
    """Images of a worker in these."""
    notes: tuple[str, ...]
    """What is assumed, in words."""
    wishes: Wishes

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        work = self.work
        return {
            "batch_size": work.batch_size,
            "images": work.images,
            "gradient_bytes": work.gradient_bytes,
            "sums_per_step": work.sums_per_step,
            "sums": {phase.phase: list(phase.buckets) for phase in work.sums},
            "checkpoint_bytes": work.checkpoint_bytes,
            "image_bytes": work.image_bytes,
            "store_read_once": work.cached,
            "compute": asdict(self.compute),
            "cluster": asdict(self.cluster),
            "rows": [row.as_json() for row in self.rows],
            "scaled_batch_rows": [row.as_json() for row in self.scaled_rows],
            "assumptions": asdict(self.wishes.assumptions),
            "notes": list(self.notes),
        }


def make_plan(
    job: TrainJob,
    pictures: Pictures,
    wishes: Wishes,
    on_message: Callable[[str], None] = lambda _: None,
) -> ScalePlan:
    """What `job` would do on each number of workers.

    Args:
        job: A training job; its own `scaling.workers` matters only where the batch is to grow.
        pictures: What it trains on.
        wishes: What is asked about.
        on_message: Told what is being measured.

    Raises:
        UsageError: Something that is asked for makes no sense, before anything is measured.
    """
    refuse_workers(list(wishes.workers))
    device = device_named(wishes.device) if wishes.device else None
    work, most = work_of(job, pictures), max(wishes.workers)
    for ranks in wishes.workers:
        refuse_uneven(work, ranks)
    gpus = device is not None or _on_gpus(job, wishes)
    per_host = wishes.per_host or _per_host(job, wishes, gpus=gpus)
    if most > per_host and wishes.network_bytes_per_s is None:
        raise UsageError(
            f"{most} workers take {-(-most // per_host)} hosts of {per_host}, and nobody has said "
            "how fast their network is.",
            where="--network",
            remedy="--network 100Gb",
        )
    compute = _compute(job, pictures, wishes, work, device, per_host, on_message)
    inside = _inside(wishes, device, per_host, most, on_message)
    memory = None if gpus else _memory(wishes, work, min(per_host, most), on_message)
    cluster = _cluster(job, wishes, inside, memory, per_host, gpus=gpus)

    def row(work: Work, ranks: int, alone: int | None = None) -> Row:
        return predict(
            work,
            compute,
            cluster,
            ranks,
            assumptions=wishes.assumptions,
            store_bytes_per_s=wishes.store_bytes_per_s,
            amplification=reads_too_much(job, pictures, work.batch_size),
            alone=alone,
        )

    share = work.batch_size // job.scaling.most
    larger = [(scaled(work, n, share), n) for n in wishes.workers if wishes.scale_batch]
    return ScalePlan(
        work=work,
        compute=compute,
        cluster=cluster,
        rows=tuple(row(work, ranks) for ranks in wishes.workers),
        scaled_rows=tuple(row(each, ranks, share) for each, ranks in larger),
        rank_batch=share,
        notes=notes_on(work, compute, cluster, wishes.workers, wishes.assumptions),
        wishes=wishes,
    )


def _on_gpus(job: TrainJob, wishes: Wishes) -> bool:
    if wishes.is_told:
        return job.scaling.gpus_per_worker > 0
    return uses_gpus(job)


def _per_host(job: TrainJob, wishes: Wishes, *, gpus: bool) -> int:
    """Workers of a host, where nobody has said."""
    measured_here = not (wishes.device or wishes.is_told)
    if gpus:
        return room_here(job) if measured_here else GPUS_PER_HOST
    cores = wishes.cores or cores_here()
    return max(1, cores // max(1, int(job.scaling.cpus_per_worker)))


def _compute(
    job: TrainJob,
    pictures: Pictures,
    wishes: Wishes,
    work: Work,
    device: Device | None,
    per_host: int,
    on_message: Callable[[str], None],
) -> Compute:
    assumed = wishes.assumptions
    phases, share = [phase.phase for phase in work.sums], assumed.backward_share
    if wishes.step_ms:
        gpus = device is not None or _on_gpus(job, wishes)
        threads = 0 if gpus else max(1, int(job.scaling.cpus_per_worker))
        return from_times(wishes.step_ms, work.batch_size, phases, share=share, threads=threads)
    if wishes.report is not None:
        return from_report(wishes.report, job.model.family, phases, share)
    if device is not None:
        from distgen.bench.flops import flops_per_image

        on_message("counting operations")
        flops = flops_per_image(job, pictures.spec)
        overhead_s = assumed.overhead_s
        return from_flops(
            flops, device, phases, mfu=assumed.mfu, overhead_s=overhead_s, share=share
        )
    side_by_side = max(1, min(per_host, room_here(job)))
    return calibrate(
        job,
        _sizes(work, wishes.workers),
        side_by_side=side_by_side,
        on_message=on_message,
    )


def _sizes(work: Work, workers: Sequence[int]) -> list[int]:
    """Images of a worker's step that are worth a measurement: the ends of the line."""
    largest = work.batch_size // min(workers)
    smallest = work.batch_size // max(workers)
    if largest == smallest and largest % (2 * work.unit) == 0:
        smallest = largest // 2
    return [smallest, largest]


def _inside(
    wishes: Wishes,
    device: Device | None,
    per_host: int,
    most: int,
    on_message: Callable[[str], None],
) -> Link:
    """Between workers of a host."""
    assumed = wishes.assumptions
    assumption = Link(assumed.inside_latency_s, assumed.inside_bytes_per_s)
    if device is not None:
        share = assumed.network_share
        return replace(assumption, bytes_per_s=share * device.inside_bytes_per_s)
    here = not wishes.is_told
    if here and assumption == Link(*_DEFAULT_INSIDE) and min(per_host, most) > 1:
        on_message("measuring sums over two processes")
        return calibrate_link()
    return assumption


def _memory(
    wishes: Wishes, work: Work, together: int, on_message: Callable[[str], None]
) -> Memory | None:
    """In which so many workers of a host, which compute on CPUs, average gradients."""
    assumed = wishes.assumptions
    assumption = Memory(assumed.meeting_s, assumed.memory_bytes_per_s)
    if wishes.is_told or assumption != _DEFAULT_MEMORY or together == 1:
        return assumption
    on_message("measuring means in memory that two processes share")
    return calibrate_memory(max(phase.bytes for phase in work.sums))


_DEFAULT_MEMORY = Memory(Assumptions().meeting_s, Assumptions().memory_bytes_per_s)
_DEFAULT_INSIDE = (Assumptions().inside_latency_s, Assumptions().inside_bytes_per_s)


def _cluster(
    job: TrainJob,
    wishes: Wishes,
    inside: Link,
    memory: Memory | None,
    per_host: int,
    *,
    gpus: bool,
) -> Cluster:
    assumed = wishes.assumptions
    between = Link(
        assumed.between_latency_s,
        assumed.network_share * (wishes.network_bytes_per_s or inside.bytes_per_s),
    )
    cores = wishes.cores
    if cores is None and not gpus:
        threads = max(1, int(job.scaling.cpus_per_worker))
        measured_here = not wishes.is_told
        cores = cores_here() if measured_here else per_host * threads
    return Cluster(per_host=per_host, inside=inside, between=between, cores=cores, memory=memory)
