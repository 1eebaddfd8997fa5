"""Means of gradients over ranks of one machine, through memory that they share.

gloo sends what ranks of one machine sum through sockets: every number is copied into the kernel and
out of it several times, by cores that have a step to compute. Here each rank lays its share of
the mean where the others can read it, and every rank adds the shares up in the order of ranks: to
the same bits on each of them and each time, whoever comes last. gloo only says when all have come.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from distgen.core.spans import tail
from distgen.core.world import World

Gather = Callable[[Sequence[Any]], list[Any]]
"""The values of all ranks, one rank after the other, on every rank."""

MOST_RANKS = 8
"""Each rank reads what all have laid down: with more, a ring through sockets moves less."""
MOST_BYTES = 2**28
"""Of a rank's gradients, which it holds twice more here."""
EXCHANGE = "wait for gradients of other ranks"
"""The span's name in profiles."""
TURNS = 2
"""Passes until a rank writes again where it has written."""
_ALIGNMENT = 64
_NONCE_BYTES = 32
_NAME = "distgen-gradients"


class SharedMeans:
    """A communication hook of one network's DistributedDataParallel.

    Ranks meet once in a backward pass, at its end. What a rank lays down in one pass lies in one
    half of its memory, and in the next in the other: before it fills a half again all ranks have
    met, and each had read before what lay there.
    """

    def __init__(self, world: World, memories: Sequence[Tensor]) -> None:
        """Average over `world`, through the ranks' `memories`: uint8 [bytes] each."""
        self._world = world
        self._memories = memories
        self._turn = 0
        self._filled = 0
        self._open: list[tuple[Tensor, list[Tensor], Future[Tensor]]] = []

    def __call__(self, bucket: Any) -> Future[Tensor]:
        """Lay a bucket's share down; with a pass's last one, wait for all ranks and add all up."""
        tail(EXCHANGE)
        gradients = bucket.buffer()
        begin = self._turn * (self._memories[0].numel() // TURNS) + self._filled
        end = begin + gradients.numel() * gradients.element_size()
        laid = [memory[begin:end].view(gradients.dtype) for memory in self._memories]
        torch.div(gradients, self._world.size, out=laid[self._world.rank])
        self._filled += _room(gradients)
        mean: Future[Tensor] = Future()
        self._open.append((gradients, laid, mean))
        if bucket.is_last():
            dist.barrier()
            self._add_up()
        return mean

    def _add_up(self) -> None:
        for gradients, laid, mean in self._open:
            torch.add(laid[0], laid[1], out=gradients)
            for more in laid[2:]:
                gradients.add_(more)
            mean.set_result(gradients)
        self._turn, self._filled, self._open = (self._turn + 1) % TURNS, 0, []


def shared_means(world: World, network: nn.Module, gather: Gather) -> SharedMeans | None:
    """The hook for gradients of `network`, or None where ranks share no memory. Collective.

    None where weights are not in host memory, for more than `MOST_RANKS` ranks or `MOST_BYTES` of
    gradients, and for ranks in several machines or containers.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    size = sum(map(_room, weights))
    on_host = all(weight.device.type == "cpu" for weight in weights)
    if not on_host or not worth_sharing(size, world.size):
        return None
    memories = shared_memories(TURNS * size, gather)
    return SharedMeans(world, memories) if memories else None


def worth_sharing(size: int, ranks: int) -> bool:
    """Whether so many ranks of a host average `size` bytes of gradients in memory of it."""
    return 0 < size <= MOST_BYTES and 1 < ranks <= MOST_RANKS


def shared_memories(size: int, gather: Gather) -> list[Tensor] | None:
    """A piece of memory of each rank, all of them open on every rank, or None. Collective.

    They have no name in any file system, no limit but the machine's memory (that of /dev/shm is
    64 MB in most containers), take room only as they are written to, and end with the processes.

    Args:
        size: Bytes of each.
        gather: Of the ranks that call this.

    Returns:
        uint8 [size] of each rank, in the order of ranks; None on all ranks, if one of them could
        not open those of all others.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    with ExitStack() as stack:
        own = _create(size, nonce, stack)
        places = gather([(own, nonce)])
        memories = [_open(path, size, expected) for path, expected in places]
        complete = all(gather([all(memory is not None for memory in memories)]))
    return [memory for memory in memories if memory is not None] if complete else None


def _room(values: Tensor) -> int:
    """Bytes that numbers take, up to where the next ones may begin."""
    size = values.numel() * values.element_size()
    return size + -size % _ALIGNMENT


def _create(size: int, nonce: bytes, stack: ExitStack) -> str:
    """Where processes of this user find a new piece of memory that starts with `nonce`; or ""."""
    try:
        descriptor = os.memfd_create(_NAME)
        stack.callback(os.close, descriptor)
        os.ftruncate(descriptor, size)
        os.write(descriptor, nonce)
    except (AttributeError, OSError):  # not Linux, or a sandbox that has none
        return ""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _open(path: str, size: int, nonce: bytes) -> Tensor | None:
    """Memory at `path`, if it is the one that starts with `nonce`.

    In another machine or container the path names nothing, or something else. That is not opened:
    to look into another process's pipe is to take from it, or to wait for ever.
    """
    try:
        if not str(Path(path).readlink()).startswith(f"/memfd:{_NAME}"):
            return None
        with Path(path).open("r+b", buffering=0) as file:
            if file.read(_NONCE_BYTES) != nonce:
                return None
            return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.uint8)
    except (OSError, ValueError):
        return None
