"""What runs inside Ray's processes: one rank of a run, and what the controller does on errors."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import ray
import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from distgen.core.config import parse
from distgen.core.errors import DistgenError, PreemptedError
from distgen.core.world import World
from distgen.launch.telemetry import Member, Telemetry
from distgen.training import trainer
from distgen.training.job import TrainJob

INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass(frozen=True)
class RankConfig:
    """What every rank is told."""

    job: dict[str, Any]
    """The train job as plain data, its paths absolute."""
    telemetry: Telemetry


def run_rank(config: dict[str, Any]) -> dict[str, Any]:
    """One rank of a run; what rank 0 returns is what the driver gets.

    Returns:
        `{"outcome": ...}`, `{"preempted": ...}` with the error's parts, or `{}` where the driver
        has gone and nobody is interested.
    """
    rank_config: RankConfig = config["rank"]
    job = parse(TrainJob, rank_config.job, "the job sent to the workers")
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    # Sums over pixels depend on how they are split over threads: as many as the job says, always.
    torch.set_num_threads(max(1, int(job.scaling.cpus_per_worker)))
    telemetry = rank_config.telemetry
    try:
        telemetry.enroll(Member(world.rank, os.getpid(), socket.gethostname()))
    except ray.exceptions.RayActorError:
        return {}
    try:
        outcome = trainer.train(
            job, world=world, device=ray.train.torch.get_device(), on_tick=telemetry.push
        )
    except PreemptedError as error:
        # Returned and not raised: an error would end the group while rank 0 may still write.
        return {"preempted": {"what": error.what, "where": error.where, "remedy": error.remedy}}
    return {"outcome": asdict(outcome)}


class GiveUpOnKnownErrors(ray.train.UserCallback):  # type: ignore[misc]
    """Ends a run at once on errors that another attempt would only repeat.

    Ray Train would restart the workers for any exception. An error raised from here is the
    controller's own, which it does not retry, and it reaches the driver whole.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Raise what cannot be cured by a restart; report the rest as a fault."""
        for error in worker_exceptions.values():
            known = unwrap(error)
            if known is not None:
                raise known
        self._telemetry.fault(root_cause(worker_exceptions))


def unwrap(error: BaseException | None) -> DistgenError | None:
    """The error of ours inside Ray's wrappers, where there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, DistgenError):
            return error
        seen.add(id(error))
        wrapped = [getattr(error, name, None) for name in ("_base_exc", "controller_failure")]
        causes = [*wrapped, getattr(error, "cause", None), error.__cause__]
        error = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    return None


def root_cause(failures: dict[int, Exception]) -> str:
    """One line on why a worker group failed: the rank that died rather than those it took along."""
    lines = {rank: _last_line(error) for rank, error in sorted(failures.items())}
    # When one rank dies its peers fail in the collective that they were waiting in.
    own = {rank: line for rank, line in lines.items() if not _is_collateral(line)}
    rank, line = next(iter((own or lines).items()), (0, "unknown"))
    return f"rank {rank}: {line}"


def _last_line(error: Exception) -> str:
    wrapped = getattr(error, "health_check_failure", None) or error
    if isinstance(wrapped, ray.exceptions.RayActorError):
        return "its process died (killed, out of memory, or its node was lost)"
    lines = [line.strip() for line in str(wrapped).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(wrapped).__name__


def _is_collateral(line: str) -> bool:
    words = ("connection closed by peer", "connection reset", "gloo", "nccl", "broken pipe")
    return any(word in line.lower() for word in words)


class InterfaceTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's torch set-up, after each worker has been told its network interface."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Ray asks for the class that sets up the process group."""
        return _InterfaceTorchBackend


class _InterfaceTorchBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Let gloo use the interface that carries this node's address in the cluster.

    By itself gloo takes what the host name resolves to, which on many hosts is loopback, and
    ranks on other hosts are then refused. What the user has set stays.
    """
    if os.environ.get(INTERFACE):
        return
    addresses = {
        name: [entry.address for entry in entries]
        for name, entries in psutil.net_if_addrs().items()
    }
    name = interface_of(ray.util.get_node_ip_address(), addresses)
    if name is not None:
        os.environ[INTERFACE] = name


def interface_of(address: str, interfaces: dict[str, list[str]]) -> str | None:
    """The interface that has `address`, or None where no interface has it (as behind a NAT)."""
    # An IPv6 address may carry its zone, as in fe80::1%eth0.
    return next(
        (
            name
            for name, addresses in sorted(interfaces.items())
            if address in (entry.partition("%")[0] for entry in addresses)
        ),
        None,
    )
