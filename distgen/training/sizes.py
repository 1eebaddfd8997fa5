"""What a job's networks weigh: in the sums over ranks of each step, and in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from distgen.core.spec import ImageSpec
from distgen.models import FAMILIES, sketch_networks
from distgen.objectives import build_objective
from distgen.training.job import TrainJob

FIRST_BUCKET_BYTES = 2**20
BUCKET_BYTES = 25 * 2**20
"""DistributedDataParallel sums gradients in buckets, each closed when it holds this much; the first
one is smaller, so that sums begin early (Li et al. 2020, "PyTorch Distributed")."""


@dataclass(frozen=True)
class Sums:
    """What ranks sum in one phase of a step."""

    phase: str
    buckets: tuple[int, ...]
    """Bytes of each sum over ranks, in the order in which backward makes them ready."""

    @property
    def bytes(self) -> int:
        """All gradients of the phase."""
        return sum(self.buckets)


def sums_of_step(job: TrainJob, spec: ImageSpec) -> tuple[Sums, ...]:
    """What ranks of `job` sum in a step, by phase.

    Each network of a phase is a DistributedDataParallel of its own. Gradients have the type of
    the weights, float32, whatever the forward pass computes in. Buffers are constants and never
    sent. From the second step on buckets are filled in the order in which gradients come, which is
    about the reverse of the order in which layers are.
    """
    networks = sketch_networks(job.model, spec)
    found = []
    for name, trained in _trained(job, networks).items():
        buckets = [
            size
            for network in trained
            for size in bucket_sizes([_bytes(p) for p in network.parameters()][::-1])
        ]
        found.append(Sums(name, tuple(buckets)))
    return tuple(found)


def bucket_sizes(sizes: Iterable[int]) -> list[int]:
    """Bytes of DistributedDataParallel's buckets for gradients of these sizes as they come."""
    buckets: list[int] = []
    filled = 0
    for size in sizes:
        filled += size
        if filled >= (BUCKET_BYTES if buckets else FIRST_BUCKET_BYTES):
            buckets.append(filled)
            filled = 0
    return [*buckets, filled] if filled else buckets


def checkpoint_bytes(job: TrainJob, spec: ImageSpec) -> int:
    """Size of a checkpoint: weights and buffers, the average of the served, Adam's two moments."""
    networks = sketch_networks(job.model, spec)
    served = networks[FAMILIES[job.model.family].served]
    state = sum(_state_bytes(network) for network in (*networks.values(), served))
    moments = sum(
        2 * _bytes(parameter)
        for trained in _trained(job, networks).values()
        for network in trained
        for parameter in network.parameters()
    )
    return state + moments


def rank_bytes(job: TrainJob, spec: ImageSpec) -> int:
    """What a rank keeps from step to step at the least: a checkpoint's parts, and gradients."""
    return checkpoint_bytes(job, spec) + max(sums.bytes for sums in sums_of_step(job, spec))


def _trained(job: TrainJob, networks: dict[str, nn.Module]) -> dict[str, Sequence[nn.Module]]:
    """The networks that each phase trains."""
    served = networks[FAMILIES[job.model.family].served]
    objective = build_objective(
        job.objective,
        job.model.family,
        int(served.latent_dim),  # type: ignore[arg-type]
        getattr(served, "latent_groups", ()),
    )
    return {phase.name: [networks[name] for name in phase.networks] for phase in objective.phases}


def _state_bytes(network: nn.Module) -> int:
    return sum(_bytes(tensor) for tensor in network.state_dict().values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
