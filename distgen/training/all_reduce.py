"""How long a sum over ranks takes on this network: what every step of a run waits for."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta

from distgen.core.aside import run_aside
from distgen.core.finding import Finding, ok, warning
from distgen.core.machine import INTERFACE

NUMBERS = 10**6
"""Single-precision numbers that are summed: 4 MB, the gradients of a small model."""
ROUNDS = 5
MEETING_S = 60.0
"""For all ranks to have loaded torch and to meet."""
SLOW_S = 0.5


def all_reduce_aside(rank: int, size: int, meeting: str, interface: str | None) -> float:
    """Seconds that rank `rank` of `size` takes for one sum, in a process of its own.

    Args:
        rank: Of this process.
        size: How many ranks there are.
        meeting: host:port on rank 0's machine where they meet.
        interface: The network interface that gloo is told to use.

    Raises:
        DistgenError: They did not meet, or the sum failed.
    """
    environment = dict(os.environ)
    if interface:
        environment[INTERFACE] = interface
    arguments = (str(rank), str(size), meeting)
    module = "distgen.training.all_reduce"
    limit_s = 2 * MEETING_S
    return float(run_aside(module, *arguments, timeout_s=limit_s, environment=environment))


def judge(seconds: float, ranks: int) -> Finding:
    """What the slowest rank's time means."""
    seen = f"4 MB over {ranks} ranks in {seconds * 1e3:,.1f} ms (gloo)"
    if seconds < SLOW_S:
        return ok("all-reduce", seen)
    return warning(
        "all-reduce",
        seen,
        "look at the bandwidth of each node, and at what else runs there; larger batches wait less",
    )


def measure(rank: int, size: int, meeting: str) -> float:
    """Seconds of the median sum, after one that nobody counts."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    limit = timedelta(seconds=MEETING_S)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{meeting}", rank=rank, world_size=size, timeout=limit
    )
    seconds = timed_sum(NUMBERS, ROUNDS)
    dist.destroy_process_group()
    return seconds


def timed_sum(numbers: int, rounds: int, device: str = "cpu") -> float:
    """Seconds of the median sum over the ranks of the default group, after one that nobody counts.

    Collective.

    Args:
        numbers: Single-precision numbers that are summed.
        rounds: Sums that count.
        device: Where the numbers are.

    Raises:
        ArithmeticError: A sum is wrong.
    """
    import torch
    import torch.distributed as dist

    values = torch.empty(numbers, device=device)
    times = []
    for _ in range(rounds + 1):
        values.fill_(1)
        dist.barrier()
        begin = time.perf_counter()
        dist.all_reduce(values)
        if values.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
        if not bool((values == dist.get_world_size()).all()):
            raise ArithmeticError("the sum is wrong")
    return sorted(times[1:])[rounds // 2]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
