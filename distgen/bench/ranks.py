"""A few ranks on this machine that torch.distributed joins, in fresh processes and without Ray."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

import torch
import torch.distributed as dist

from distgen.core.errors import DistgenError
from distgen.core.ports import free_port
from distgen.core.world import World


def on_ranks(
    size: int, work: Callable[..., Any], *arguments: Any, threads: int = 1, backend: str = "gloo"
) -> Any:
    """What `work(world, *arguments)` returns on rank 0 of `size` ranks.

    Args:
        size: Number of processes.
        work: A function that a fresh process can import.
        arguments: What it gets after its `World`.
        threads: Torch threads of each rank.
        backend: `gloo`, or `nccl` for a GPU each.

    Raises:
        DistgenError: A rank failed; its error is printed.

    The ranks end with this call, and with this process, whatever ends it.
    """
    context = multiprocessing.get_context("spawn")
    results: Queue[Any] = context.Queue()
    port = free_port()
    ranks = [
        context.Process(
            target=_rank,
            args=(World(rank, size), port, threads, backend, work, arguments, results),
        )
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    try:
        result = first_result(results, ranks)
        for process in ranks:
            process.join(60)
        return result
    finally:
        for process in ranks:
            process.kill()
            process.join()


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, even where that was killed."""
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def first_result(results: Queue[Any], ranks: Sequence[BaseProcess]) -> Any:
    """What rank 0 put into the queue.

    Raises:
        DistgenError: A rank ended before.
    """
    while True:
        with contextlib.suppress(Empty):
            return results.get(timeout=1.0)
        failed = [process for process in ranks if process.exitcode]
        if failed:
            raise DistgenError(
                f"A rank of the measurement ended with exit code {failed[0].exitcode}.",
                cause="its error is printed above",
            )


def _rank(
    world: World,
    port: int,
    threads: int,
    backend: str,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    results: Queue[Any],
) -> None:
    end_with_parent()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(threads)
    if backend == "nccl":
        torch.cuda.set_device(world.rank)
    dist.init_process_group(backend, rank=world.rank, world_size=world.size)
    result = work(world, *arguments)
    dist.barrier()
    if world.is_main:
        results.put(result)
    dist.destroy_process_group()
