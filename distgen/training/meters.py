"""Sums that stay on the device until someone asks, and where the step's time went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from distgen.training.collective import Collective


@dataclass(frozen=True)
class Reading:
    """Means over all ranks since the last reset."""

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
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0
        self._images = 0
        self._waited_s = 0.0
        self._paused_s = 0.0
        self._since = time.perf_counter()

    def add(self, phase: str, logs: Mapping[str, torch.Tensor], *, weight: float = 1.0) -> None:
        """Add a phase's terms, `weight` of a step's; nothing is copied to the host."""
        for name, value in logs.items():
            key = f"{phase}/{name}"
            value = value.detach().float() * weight
            self._sums[key] = self._sums[key] + value if key in self._sums else value

    def step(self, images: int) -> None:
        """Count one step of `images` over all ranks."""
        self._steps += 1
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
        keys = list(self._sums)
        size = collective.world.size
        elapsed = max(time.perf_counter() - self._since - self._paused_s, 1e-9)
        waits = torch.zeros(size)
        waits[collective.world.rank] = self._waited_s / elapsed
        local = torch.stack([self._sums[key] for key in keys]).cpu() if keys else torch.zeros(0)
        total = collective.sum(torch.cat([waits, local])).tolist()
        means = [value / (size * max(1, self._steps)) for value in total[size:]]
        return Reading(
            losses=dict(zip(keys, means, strict=True)),
            images_per_s=self._images / elapsed,
            data_wait=max(total[:size]),
            memory_gib=_memory_gib(self._device),
        )


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30
