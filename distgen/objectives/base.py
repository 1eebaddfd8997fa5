"""Objectives: what each optimiser step minimises. The trainer knows nothing else of a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from distgen.core.part import Part
from distgen.core.seeding import derive
from distgen.core.spans import span
from distgen.core.world import World


@dataclass(frozen=True)
class Phase:
    """One optimiser step on some of the networks."""

    name: str
    networks: tuple[str, ...]
    """Names of the networks that this phase trains; all others are frozen meanwhile."""
    differentiated_twice: tuple[str, ...] = ()
    """Names of the networks whose gradients its loss may hold, as penalties do."""


@dataclass(frozen=True)
class Noise:
    """Random numbers as a pure function of (seed, purpose, images seen).

    They are drawn for the whole global batch, and each rank keeps its own rows: the same training
    on any number of ranks, and no generator state to save. Where networks run on CUDA they are
    drawn there, for a copy from the host would wait for all work that is queued; GPUs of another
    model may then draw other numbers.
    """

    seed: int
    images_seen: int
    """The clock before this batch."""
    world: World
    global_batch: int
    """Rows of the batch over all ranks."""
    device: torch.device
    part: int = 0
    parts: int = 1
    """A rank's rows come in this many parts, of which this is one."""

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal numbers [local rows, *shape], float32, on the device."""
        return self._drawn(torch.randn, "normal", purpose, shape)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) [local rows, *shape], float32, on the device."""
        return self._drawn(torch.rand, "uniform", purpose, shape)

    @property
    def source(self) -> torch.device:
        """Where the numbers are drawn."""
        return self.device if self.device.type == "cuda" else torch.device("cpu")

    def _drawn(
        self, draw: Callable[..., Tensor], kind: str, purpose: str, shape: tuple[int, ...]
    ) -> Tensor:
        with span("random numbers"):
            seed = derive(self.seed, kind, purpose, self.images_seen)
            generator = torch.Generator(self.source).manual_seed(seed)
            values = draw(self.global_batch, *shape, generator=generator, device=self.source)
            mine = values[self.world.rank :: self.world.size][self.part :: self.parts]
            return mine.contiguous().to(self.device)


@dataclass(frozen=True)
class TrainBatch:
    """One rank's part of a global batch."""

    images_nchw: Tensor
    """float32 in [-1, 1]."""
    labels_n: Tensor | None
    """int64 class indices, -1 where a picture has none; None where the set has no classes."""
    noise: Noise
    images_seen: int
    """The clock before this batch: schedules read it."""

    def split(self, parts: int) -> list[TrainBatch]:
        """Parts of equal length: every `parts`-th row, as ranks take every `size`-th."""
        return [
            TrainBatch(
                images_nchw=self.images_nchw[part::parts],
                labels_n=None if self.labels_n is None else self.labels_n[part::parts],
                noise=replace(self.noise, part=part, parts=parts),
                images_seen=self.images_seen,
            )
            for part in range(parts)
        ]


class Objective(Protocol):
    """An ordered list of phases, and the loss of each.

    Every loss is a mean over the batch of terms that belong to single samples, or to groups of them
    that no rank and no part of a batch divides (`Family.rows_together`), and every term of
    a phase, gradient penalties included, is in the one loss: so that the mean of the ranks'
    gradients is the gradient of the global batch, after one backward per phase.
    """

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Phases in the order in which a batch runs through them."""
        ...

    def loss(
        self, phase: Phase, networks: Mapping[str, nn.Module], batch: TrainBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and detached scalars to log (means over the local batch).

        Args:
            phase: One of `phases`.
            networks: All networks by name. Those of the phase require gradients and may be wrapped
                in DistributedDataParallel; the others are plain and frozen.
            batch: This rank's pictures, labels and noise.
        """
        ...

    @property
    def parts(self) -> Mapping[str, Part]:
        """What an objective learns besides weights, and has to survive a restart, by name.

        It must be the same on every rank after each step.
        """
        return {}

    def after_step(self, images: int, total: Callable[[Tensor], Tensor]) -> None:  # noqa: ARG002
        """Called on every rank once all phases of a batch are done.

        Args:
            images: Images of the batch over all ranks.
            total: Sums a tensor over ranks, on the device; no host waits for it.
        """
        return
