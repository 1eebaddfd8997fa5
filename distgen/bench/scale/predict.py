"""A model of a training step on many ranks: pure functions of sizes, times and links.

A step of a rank is its own work (a part that every step has, a part for each of its images), the
random numbers of the whole batch, waiting for the slowest rank, and what of the sums over ranks
does not fit beside backward. DistributedDataParallel sums a bucket of gradients as soon as the last
of them is there, one bucket after the other (Li et al. 2020, "PyTorch Distributed: Experiences on
Accelerating Data Parallel Training"): with one bucket, as small networks have, no sum begins before
backward ends, and all of it is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from distgen.bench.scale.compute import Compute
from distgen.bench.scale.links import Cluster, Cost, Memory, all_reduce, shared_mean
from distgen.core.errors import UsageError
from distgen.training.shared_memory import worth_sharing
from distgen.training.sizes import Sums

IMAGES = "compute"
FIXED = "fixed cost of a step"
CORES = "sharing cores"
NOISE = "random numbers of the whole batch"
SLOWEST = "waiting for the slowest rank"
BANDWIDTH = "network bandwidth"
LATENCY = "network latency"
CHECKPOINTS = "checkpoints"
STORE = "store"
_SHOWN = 12


@dataclass(frozen=True)
class Assumptions:
    """What the estimates stand on beside measurements; `--assume NAME=VALUE` replaces one."""

    network_share: float = 0.8
    """Part of the named bandwidth that sums and reads reach."""
    between_latency_s: float = 3e-5
    """Seconds of a message between hosts, software included."""
    inside_latency_s: float = 1e-5
    """Seconds of a message inside a host, where it is not measured."""
    inside_bytes_per_s: float = 2e9
    """Between ranks of a host, where it is neither measured nor the device's: gloo on a CPU."""
    meeting_s: float = 1e-4
    """Until CPU ranks of one host know that all have come, where it is not measured."""
    memory_bytes_per_s: float = 4e9
    """At which CPU ranks of one host go through gradients, where it is not measured."""
    jitter: float = 0.02
    """Standard deviation of a rank's own time for a step, as a share of it."""
    mfu: float = 0.15
    """Part of a GPU's peak that training reaches, where nothing is measured."""
    overhead_s: float = 0.01
    """Seconds of a step on a GPU that no image takes, where nothing is measured."""
    backward_share: float = 0.5
    """Part of a step that is backward, where nothing is measured."""
    copy_bytes_per_s: float = 4e9
    """At which a checkpoint is copied to host memory: taken to hold up a step, at worst."""
    write_bytes_per_s: float = 4e8
    """At which one rank hashes and writes a checkpoint, while training goes on."""


@dataclass(frozen=True)
class Work:
    """What does not depend on how many ranks share it."""

    batch_size: int
    """Images of a step over all ranks."""
    images: int
    """Length of the run."""
    sums: tuple[Sums, ...]
    """What ranks sum in each step."""
    unit: int = 1
    """A rank's images of a step are a multiple of this."""
    accumulate: int = 1
    """Parts of a rank's share; sums go on beside the last part's backward."""
    image_bytes: float = 0.0
    """Read from the store for one image."""
    cached: bool = False
    """Whether the store is read in the first epoch only."""
    checkpoint_bytes: int = 0
    checkpoint_every: int = 50_000
    """Images between checkpoints."""

    @property
    def gradient_bytes(self) -> int:
        """Bytes that a step sums over ranks."""
        return sum(phase.bytes for phase in self.sums)

    @property
    def sums_per_step(self) -> int:
        """How many sums over ranks a step has."""
        return sum(len(phase.buckets) for phase in self.sums)


@dataclass(frozen=True)
class Row:
    """What so many ranks would do. Times are of one step, in seconds."""

    ranks: int
    hosts: int
    batch_size: int
    rank_batch: int
    step_s: float
    parts: dict[str, float]
    """What a step is spent on; adds up to `step_s`."""
    exchange_s: float
    """All sums over ranks."""
    exposed_s: float
    """What of them is not beside backward."""
    images_per_s: float
    efficiency: float
    """Over as many times the speed of one rank that has the whole batch for itself or, where the
    batch grows with the ranks, its share."""
    to_end_s: float
    """Of the run's length at this speed; quality cards and the start are not in it."""
    store_bytes_per_s: float
    """What ranks want of the store: in every epoch or, where pictures are kept, in the first."""
    checkpoint_s: float
    """Seconds to write a checkpoint, beside training."""
    bottleneck: str

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def predict(
    work: Work,
    compute: Compute,
    cluster: Cluster,
    ranks: int,
    *,
    assumptions: Assumptions,
    store_bytes_per_s: float | None = None,
    amplification: Callable[[int], float] = lambda _: 1.0,
    alone: int | None = None,
) -> Row:
    """What a step takes on `ranks` ranks, and what it takes it for.

    Args:
        work: The job.
        compute: A rank's own step.
        cluster: How ranks lie on hosts.
        ranks: How many.
        assumptions: All else.
        store_bytes_per_s: What the store gives to all hosts together; None: enough.
        amplification: Bytes that so many ranks read for each byte that they use.
        alone: Images of the step of the one rank that efficiency is measured by; by default the
            batch.

    Raises:
        UsageError: The batch does not divide by so many ranks; says which numbers do.
    """
    refuse_uneven(work, ranks)
    rank_batch = work.batch_size // ranks
    parts = _own(work, compute, cluster, ranks)
    own_s = sum(parts.values())
    # The largest of n normal variables is at most so many deviations above their mean.
    parts[SLOWEST] = assumptions.jitter * own_s * math.sqrt(2 * math.log(ranks))
    exchange, exposed = exchange_cost(work, compute, cluster, ranks)
    parts[LATENCY], parts[BANDWIDTH] = exposed.latency_s, exposed.bandwidth_s
    step_s = sum(parts.values())

    checkpoint_s, parts[CHECKPOINTS] = _checkpoints(work, assumptions, store_bytes_per_s, step_s)
    step_s += parts[CHECKPOINTS]

    read = work.batch_size * work.image_bytes * amplification(ranks)
    if store_bytes_per_s is not None and not work.cached:
        parts[STORE] = max(0.0, read / store_bytes_per_s - step_s)
        step_s += parts[STORE]
    speed = work.batch_size / step_s
    return Row(
        ranks=ranks,
        hosts=cluster.hosts(ranks),
        batch_size=work.batch_size,
        rank_batch=rank_batch,
        step_s=step_s,
        parts=parts,
        exchange_s=exchange.total_s,
        exposed_s=exposed.total_s,
        images_per_s=speed,
        efficiency=speed / (ranks * _speed_alone(compute, alone or work.batch_size)),
        to_end_s=work.images / speed,
        store_bytes_per_s=read / step_s,
        checkpoint_s=checkpoint_s,
        bottleneck=max(parts, key=lambda name: parts[name]),
    )


def _checkpoints(
    work: Work, assumptions: Assumptions, store_bytes_per_s: float | None, step_s: float
) -> tuple[float, float]:
    """Seconds to write one beside training, and what they cost each step."""
    write_s = work.checkpoint_bytes / assumptions.write_bytes_per_s
    if store_bytes_per_s is not None:
        write_s = max(write_s, work.checkpoint_bytes / store_bytes_per_s)
    steps_between = max(1.0, work.checkpoint_every / work.batch_size)
    stall_s = work.checkpoint_bytes / assumptions.copy_bytes_per_s
    # A checkpoint waits until the one before is written.
    stall_s += max(0.0, write_s - steps_between * step_s)
    return write_s, stall_s / steps_between


def refuse_uneven(work: Work, ranks: int) -> None:
    """Refuse numbers of ranks that would weigh pictures unequally.

    Raises:
        UsageError: Says which numbers divide the batch.
    """
    if ranks >= 1 and work.batch_size % (ranks * work.unit) == 0:
        return
    shares = work.batch_size // work.unit
    fitting = [
        n for n in range(1, shares + 1) if shares % n == 0 and not work.batch_size % work.unit
    ]
    near = sorted(sorted(fitting, key=lambda n: abs(n - ranks))[:_SHOWN])
    raise UsageError(
        f"{ranks} workers do not divide a batch of {work.batch_size} images"
        + (f" in groups of {work.unit}." if work.unit > 1 else "."),
        where="--workers",
        cause="unequal ranks would weigh pictures unequally",
        remedy=f"numbers that do: {', '.join(map(str, near))}; or training.batch_size="
        f"{max(1, ranks) * work.unit * max(1, round(work.batch_size / max(1, ranks) / work.unit))}",
    )


def in_memory(phase: Sums, cluster: Cluster, ranks: int) -> Memory | None:
    """The memory in which so many ranks average a phase's gradients; None where they send them."""
    here = cluster.hosts(ranks) == 1 and worth_sharing(phase.bytes, ranks)
    return cluster.memory if here else None


def exchange_cost(work: Work, compute: Compute, cluster: Cluster, ranks: int) -> tuple[Cost, Cost]:
    """What a step's sums over ranks cost, and what of it is waited for.

    Gradients are taken to come evenly over the backward of their phase, in bytes; what is waited
    for is the time from the end of backward to the end of the last sum. In the memory of one host
    ranks average when backward ends, and all of it is waited for.
    """
    if ranks == 1:
        return Cost(), Cost()
    images = work.batch_size // ranks
    crowd = _crowd(compute, cluster, ranks, images)
    own_s = compute.rank_s(images) * crowd
    exchange, exposed = Cost(), Cost()
    for phase in work.sums:
        memory = in_memory(phase, cluster, ranks)
        if memory is not None:
            cost = shared_mean(phase.bytes, ranks, memory).times(crowd)
            exchange, exposed = exchange + cost, exposed + cost
            continue
        backward_s = compute.backward.get(phase.phase, 0.0) * own_s / work.accumulate
        ready_bytes, ended_s, cost = 0, 0.0, Cost()
        for size in phase.buckets:
            ready_bytes += size
            begin_s = ready_bytes / phase.bytes * backward_s if compute.overlaps else backward_s
            # Where ranks share a core, none sends while another computes.
            each = all_reduce(size, ranks, cluster).times(crowd)
            ended_s = max(ended_s, begin_s) + each.total_s
            cost += each
        exchange += cost
        share = (ended_s - backward_s) / cost.total_s if cost.total_s else 0.0
        exposed += cost.times(share)
    return exchange, exposed


def _own(work: Work, compute: Compute, cluster: Cluster, ranks: int) -> dict[str, float]:
    """Seconds of a rank's step without the others, by what they are spent on."""
    images = work.batch_size // ranks
    noise_s = compute.noise_s * (work.batch_size - images)
    alone_s = compute.rank_s(images) + noise_s
    shared_s = alone_s * (_crowd(compute, cluster, ranks, images) - 1)
    return {
        IMAGES: compute.image_s * images,
        FIXED: compute.step_s,
        NOISE: noise_s,
        CORES: shared_s,
    }


def _crowd(compute: Compute, cluster: Cluster, ranks: int, images: int) -> float:
    """How much longer ranks of a host compute because they have too few cores, at least 1.

    For as short a time as a step a thread stays where it is: with three of them on two cores, two
    take turns on one, and the third waits for both. The fullest core says how long it takes.
    """
    if cluster.cores is None:
        return 1.0
    together, own_s = cluster.ranks_of_host(ranks), compute.rank_s(images)
    busy = compute.cpu_s(images) / own_s
    # Small threads beside those that compute, such as those that decode, find a place of their own.
    threads = max(1, round(busy))
    on_fullest = math.ceil(together * threads / cluster.cores)
    return max(1.0, on_fullest * min(1.0, busy / threads), together * busy / cluster.cores)


def _speed_alone(compute: Compute, images: int) -> float:
    """images/s of one rank whose steps have so many images."""
    return images / compute.rank_s(images)


def scaled(work: Work, ranks: int, rank_batch: int) -> Work:
    """The same work with a batch that grows with the ranks."""
    return replace(work, batch_size=ranks * rank_batch)
