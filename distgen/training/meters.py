"""Sums that stay on the device until someone asks, and where the step's time went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


class Sums:
    """Sums of the terms of phases, on the device, with how many steps were taken.

    Terms may come and go, as a penalty does that not every step has: each set of them has sums of
    its own, and a term's mean is over the steps that had it.

    Args:
        dtype: Of the sums.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        self._sums: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def add(self, phase: str, record: Record) -> None:
        """Add one phase of one step."""
        key, values = (phase, record.names), record.values.to(self._dtype)
        self._sums[key] = self._sums[key] + values if key in self._sums else values

    def flat(self) -> Tensor:
        """Everything in a row, in host memory: to be added up over ranks."""
        parts = [values.cpu() for values in self._sums.values()]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=self._dtype)

    def become(self, flat: Tensor) -> None:
        """Take what `flat` gave, or what became of it."""
        at = 0
        for key, values in self._sums.items():
            self._sums[key] = flat[at : at + len(values)].to(values)
            at += len(values)

    def means(self, flat: Tensor) -> tuple[dict[str, float], dict[str, float]]:
        """Means by `<phase>/<term>`, and taken steps by phase, from a row as of `flat`."""
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        steps: dict[str, float] = {}
        numbers = iter(flat.tolist())
        for phase, names in self._sums:
            taken = next(numbers)
            steps[phase] = steps.get(phase, 0.0) + taken
            for key in (f"{phase}/{name}" for name in names):
                sums[key] = sums.get(key, 0.0) + next(numbers)
                counts[key] = counts.get(key, 0.0) + taken
        return {key: sums[key] / count for key, count in counts.items() if count}, steps

    def state(self) -> list[list[Any]]:
        """Everything, for a checkpoint."""
        return [[phase, list(names), values] for (phase, names), values in self._sums.items()]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        """Become what `state` said."""
        self._sums = {(phase, tuple(names)): values for phase, names, values in state}

    def to(self, device: torch.device) -> None:
        """Move everything to where training goes on."""
        self._sums = {key: values.to(device) for key, values in self._sums.items()}


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
        self._sums = Sums()
        self._images = 0
        self._waited_s = 0.0
        self._paused_s = 0.0
        self._since = time.perf_counter()

    def add(self, phase: str, record: Record) -> None:
        """Add a phase's terms; nothing is copied to the host."""
        self._sums.add(phase, record)

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
        total = collective.sum(torch.cat([waits, self._sums.flat()]))
        losses, _ = self._sums.means(total[size:])
        return Reading(
            losses=losses,
            images_per_s=self._images / elapsed,
            data_wait=float(total[:size].max()),
            memory_gib=_memory_gib(self._device),
        )


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30
