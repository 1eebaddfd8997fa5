"""Floating-point operations of a training step, counted while it is taken once on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from distgen.core.spec import ImageSpec
from distgen.core.world import World
from distgen.models import FAMILIES, build_networks
from distgen.objectives import Noise, TrainBatch, build_objective
from distgen.training.job import TrainJob
from distgen.training.optim import train_only

_COUNTED = 8
"""Pictures of the step that is counted."""


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up operations; torch's own FlopCounterMode knows no gradients inside a loss."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def flops_per_image(job: TrainJob, spec: ImageSpec) -> float:
    """Operations of one training step, forward, backward and penalties, divided by its pictures.

    By the formulas of torch's own counter; a multiplication and its addition are two.
    """
    networks = build_networks(job.model, spec)
    served = networks[FAMILIES[job.model.family].served]
    latent_dim, groups = int(served.latent_dim), getattr(served, "latent_groups", ())  # type: ignore[arg-type]
    objective = build_objective(job.objective, job.model.family, latent_dim, groups)
    frames = () if spec.frames is None else (spec.frames,)
    together = FAMILIES[job.model.family].rows_together(job.model)
    count = -(-_COUNTED // together) * together
    batch = TrainBatch(
        images_nchw=torch.zeros(count, *frames, spec.channels, spec.height, spec.width),
        labels_n=torch.zeros(count, dtype=torch.int64) if spec.classes else None,
        noise=Noise(0, 0, World(), count, torch.device("cpu")),
        images_seen=0,
    )
    counter = _Flops()
    # Without oneDNN an LSTM is made of products that the counter knows.
    with _without_onednn(), counter:
        for phase in objective.phases:
            train_only(networks, phase.networks)
            loss, _ = objective.loss(phase, networks, batch)
            loss.backward()  # type: ignore[no-untyped-call]
    return counter.total / count


@contextmanager
def _without_onednn() -> Iterator[None]:
    with warnings.catch_warnings():
        # Of Intel's GPUs, said of the switch and not of what it switches.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=False):
            yield
