"""What runs inside a Ray Train worker: one rank of a run."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
import torch

from distgen.core.birth import started_at
from distgen.core.config import parse
from distgen.core.errors import PreemptedError
from distgen.core.machine import INTERFACE
from distgen.core.world import World
from distgen.launch.monitoring import events_told, watch_shm
from distgen.launch.network import choose_interface, joined
from distgen.launch.telemetry import Member, Telemetry
from distgen.training import trainer
from distgen.training.job import TrainJob


def run_rank(config: dict[str, Any]) -> dict[str, Any]:
    """One rank of a run; what rank 0 returns is what the driver gets.

    Args:
        config: `job`, the train job as plain data with absolute paths, and `telemetry`.

    Returns:
        `{"outcome": ...}`, `{"preempted": ...}` with the error's parts, or `{}` where the driver
        has gone and nobody is interested.
    """
    telemetry: Telemetry = config["telemetry"]
    job = parse(TrainJob, config["job"], "the job sent to the workers")
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    # Sums over pixels depend on how they are split over threads: as many as the job says, always.
    torch.set_num_threads(max(1, int(job.scaling.cpus_per_worker)))
    choose_interface()
    try:
        telemetry.enroll(
            Member(
                rank=world.rank,
                pid=os.getpid(),
                host=socket.gethostname(),
                interface=os.environ.get(INTERFACE, ""),
                node=ray.get_runtime_context().get_node_id(),
                started=started_at(),
            )
        )
    except ray.exceptions.RayActorError:
        return {}
    watch_shm(job.name)
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # nccl wants a GPU for each rank alone.
    backend: Literal["gloo", "nccl"] = "nccl" if job.scaling.gpus_per_worker >= 1 else "gloo"
    try:
        with joined(world, backend), events_told(telemetry.tell):
            outcome = trainer.train(job, world=world, device=device, on_tick=telemetry.push)
    except PreemptedError as error:
        # Returned and not raised: an error would end the group while rank 0 may still write.
        return {"preempted": {"what": error.what, "where": error.where, "remedy": error.remedy}}
    return {"outcome": asdict(outcome)}
