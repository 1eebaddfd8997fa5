"""The few things that ranks say to one another. With one rank each is the identity."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distgen.core.world import World
from distgen.training.shared_memory import shared_means

T = TypeVar("T")
RowGather = Callable[[np.ndarray], np.ndarray]

# Buffers are constants here. What keeps them from being sent at each step has a new name in newer
# versions of torch, which warn of the old one.
_BUFFER_SWITCHES = ("forward_sync_buffers", "broadcast_buffers")
_KNOWN = inspect.signature(DistributedDataParallel).parameters
CONSTANT_BUFFERS: dict[str, Any] = {
    next(name for name in _BUFFER_SWITCHES if name in _KNOWN): False
}
"""Arguments of DistributedDataParallel for networks whose buffers never change."""

STRIDE_WARNING = "Grad strides do not match bucket view strides"
"""What torch concludes from the stride, which means nothing, of a single input or output."""


class Collective:
    """A world that can talk.

    Host-side data goes over gloo even where gradients go over nccl: an evaluation on rank 0 may
    take longer than nccl's watchdog allows, and its results live in host memory anyway.
    """

    def __init__(self, world: World, timeout: timedelta = timedelta(minutes=30)) -> None:
        self.world = world
        self.in_shared_memory: set[str] = set()
        """Networks whose gradients are averaged there, and not by their DistributedDataParallel."""
        self._host_group = None
        if world.size > 1:
            self._host_group = dist.new_group(backend="gloo", timeout=timeout)

    def replicate(self, networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """Each network in a DistributedDataParallel of its own, so that phases stay apart."""
        if self.world.size == 1:
            return dict(networks)
        warnings.filterwarnings("ignore", message=STRIDE_WARNING)
        replicas: dict[str, nn.Module] = {}
        for name, network in networks.items():
            replica = DistributedDataParallel(
                network, gradient_as_bucket_view=True, **CONSTANT_BUFFERS
            )
            means = shared_means(self.world, network, self.gather_list)
            if means is not None:
                replica.register_comm_hook(means, _average)
                self.in_shared_memory.add(name)
            replicas[name] = replica
        return replicas

    @contextmanager
    def apart(self, replicas: Iterable[nn.Module], *, unsynchronised: bool) -> Iterator[None]:
        """Where asked for, let the replicas keep inside what their ranks add to gradients."""
        with ExitStack() as stack:
            for replica in replicas if unsynchronised else ():
                if isinstance(replica, DistributedDataParallel):
                    stack.enter_context(replica.no_sync())
            yield

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks, in host memory."""
        values = values.detach().to("cpu", torch.float64)
        if self.world.size > 1:
            dist.all_reduce(values, group=self._host_group)
        return values

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks, where the values are; no host waits for it on CUDA."""
        if self.world.size > 1:
            values = values.detach().clone()
            dist.all_reduce(values)
        return values

    def agree(self, value: int) -> int:
        """Rank 0's number, on every rank."""
        if self.world.size == 1:
            return int(value)
        box = torch.tensor([value], dtype=torch.int64)
        dist.broadcast(box, src=0, group=self._host_group)
        return int(box.item())

    def gather_rows(self, rows: np.ndarray) -> np.ndarray:
        """The row blocks of all ranks, joined in rank order, on every rank."""
        if self.world.size == 1:
            return rows
        blocks: list[np.ndarray] = [rows] * self.world.size
        dist.all_gather_object(blocks, rows, group=self._host_group)
        return np.concatenate(blocks)

    def gather_list(self, values: Sequence[T]) -> list[T]:
        """The values of all ranks, one rank after the other, on every rank."""
        if self.world.size == 1:
            return list(values)
        blocks: list[list[T]] = [[]] * self.world.size
        dist.all_gather_object(blocks, list(values), group=self._host_group)
        return [value for block in blocks for value in block]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world.size > 1:
            dist.barrier(group=self._host_group)


def _average(means, bucket):  # type: ignore[no-untyped-def]
    """`means` as torch calls hooks: it reads their annotations, and wants those to be types."""
    return means(bucket)
