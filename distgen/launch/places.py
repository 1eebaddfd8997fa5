"""How many processes a cluster has a place for, and whether one is free."""

from __future__ import annotations

import ray

from distgen.core.errors import DistgenError, UsageError
from distgen.launch.cluster import Room, slots

BUSY_TIMEOUT_S = 60.0
"""How long a busy cluster may take to give the first process a place."""
GROW_TIMEOUT_S = 600.0
"""The same where an autoscaler may have to start a machine first."""


def fitting_workers(room: Room, wanted: int | None, gpus_per_worker: float) -> int:
    """How many processes to ask for: no more than can ever run, as Ray would wait for the others.

    Raises:
        UsageError: Not one fits.
    """
    fit = slots(room.nodes, {"CPU": 1, "GPU": gpus_per_worker})
    if room.can_grow:
        return wanted or max(1, fit)
    if not fit:
        each = "a CPU" + (f" and {gpus_per_worker:g} GPUs" if gpus_per_worker else "")
        raise UsageError(
            f"No process with {each} fits into this cluster.",
            cause=f"it has {room}",
            remedy="--gpus-per-worker with less, or a larger cluster (--address)"
            if gpus_per_worker
            else "a larger cluster (--address)",
        )
    return min(wanted or fit, fit)


def wait_for_place(room: Room, gpus_per_worker: float) -> None:
    """Until one process could start: Ray would wait for it in silence, and for ever.

    Raises:
        DistgenError: All places are taken.
    """
    timeout_s = GROW_TIMEOUT_S if room.can_grow else BUSY_TIMEOUT_S
    probe = ray.remote(_do_nothing).options(num_cpus=1, num_gpus=gpus_per_worker).remote()
    started, _ = ray.wait([probe], timeout=timeout_s)
    if not started:
        ray.cancel(probe)
        raise DistgenError(
            f"The cluster had no place for a process in {timeout_s:g} s.",
            cause="its CPUs or GPUs are taken by other jobs",
            remedy="the same command when they are done (`distgen jobs ls`), or another cluster",
        )


def _do_nothing() -> None:
    return
