"""Sums that stay on the device until someone asks, and where the step's time went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from distgen.training.collective import Collective


@dataclass(frozen=True)
class Record:
    """A phase's terms in one step, on the device."""

    names: tuple[str, ...]
    values: Tensor
    """float32 [1 + terms]: 1 where the step was taken, then its terms; zeros where it was not."""

    @classmethod
    def of(cls, parts: Sequence[Mapping[str, Tensor]], taken: Tensor) -> Record:
        """The mean of what the parts of a step logged, if the step was taken (a bool [])."""
        names = tuple(parts[0])
        terms = torch.stack([torch.stack([p[n].detach().float() for n in names]) for p in parts])
        # A product would keep what is not a number.
        means = torch.where(taken, terms.mean(0), 0.0)
        return cls(names, torch.cat((taken.float().reshape(1), means)))


@dataclass(frozen=True)
class Reading:
    """Means over all ranks since the last reset; of losses, over the steps that were taken."""

    losses: dict[str, float]
    images_per_s: float
    data_wait: float
    """Share of the time spent waiting for pictures, on the rank that waited longest."""
    memory_gib: float


class Meters:
    """Collects a step's figures without a synchronisation point in the step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._names: dict[str, tuple[str, ...]] = {}
        self._sums: dict[str, Tensor] = {}
        self._images = 0
        self._waited_s = 0.0
        self._paused_s = 0.0
        self._since = time.perf_counter()

    def add(self, phase: str, record: Record) -> None:
        """Add a phase's terms; nothing is copied to the host."""
        self._names[phase] = record.names
        if phase in self._sums:
            self._sums[phase] = self._sums[phase] + record.values
        else:
            self._sums[phase] = record.values

    def step(self, images: int) -> None:
        """Count one step of `images` over all ranks."""
        self._images += images

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for pictures."""
        start = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside (a checkpoint, an evaluation) does not count as training."""
        start = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - start

    def read(self, collective: Collective) -> Reading:
        """The means since the last reset; every rank must call it."""
        size = collective.world.size
        elapsed = max(time.perf_counter() - self._since - self._paused_s, 1e-9)
        waits = torch.zeros(size)
        waits[collective.world.rank] = self._waited_s / elapsed
        local = torch.cat(list(self._sums.values())).cpu() if self._sums else torch.zeros(0)
        total = collective.sum(torch.cat([waits, local])).tolist()
        sums = iter(total[size:])
        losses: dict[str, float] = {}
        for phase, names in self._names.items():
            taken = next(sums)
            terms = [(f"{phase}/{name}", next(sums)) for name in names]
            losses |= {key: value / taken for key, value in terms if taken}
        return Reading(
            losses=losses,
            images_per_s=self._images / elapsed,
            data_wait=max(total[:size]),
            memory_gib=_memory_gib(self._device),
        )


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30
