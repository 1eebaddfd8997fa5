"""Into a Ray cluster and out again: one that runs, or a private one for as long as it is needed."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from distgen.core.errors import DataError, PreemptedError, UsageError
from distgen.launch import auth, loopback
from distgen.launch.environment import prepare_environment, temp_root
from distgen.launch.nodes import down, status, up
from distgen.launch.scheduling import as_batch_work
from distgen.launch.state import ClusterState, read_state

__all__ = ["Connection", "Room", "connect", "dial", "down", "read_state", "slots", "status", "up"]

DIAL_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Room:
    """What a cluster has, node by node."""

    nodes: tuple[Mapping[str, float], ...]
    """Total resources of each living node."""
    can_grow: bool = False
    """Whether an autoscaler may add nodes, so that today's size is not the limit."""

    def total(self, resource: str) -> float:
        """The sum of one resource over all nodes."""
        return sum(node.get(resource, 0.0) for node in self.nodes)

    def __str__(self) -> str:
        count = f"{len(self.nodes)} node" + ("s" if len(self.nodes) != 1 else "")
        return f"{count}, {self.total('CPU'):g} CPUs, {self.total('GPU'):g} GPUs"


def slots(nodes: Sequence[Mapping[str, float]], need: Mapping[str, float]) -> int:
    """How many workers that each need `need` fit onto `nodes`, none of them split over two."""
    wanted = {name: amount for name, amount in need.items() if amount > 0}
    if not wanted:
        raise ValueError("a worker that needs nothing fits any number of times")
    # Ray counts resources in units of 1/10,000; so many thirds fit into one as it says.
    return sum(
        min(
            int(round(node.get(name, 0.0) * 10_000) // max(1, round(amount * 10_000)))
            for name, amount in wanted.items()
        )
        for node in nodes
    )


@dataclass
class Connection:
    """A Ray cluster that this process talks to; a context manager that leaves it as it was."""

    address: str
    """The cluster's GCS, host:port."""
    dashboard_url: str | None
    session_dir: Path | None
    """Ray's logs, where the cluster runs on this machine."""
    connected_here: bool
    """Whether closing disconnects; not so where Ray was already up in this process."""
    started_here: bool
    """Whether the cluster exists for this process only, and ends with it."""

    def room(self) -> Room:
        """What the cluster has at this moment."""
        import ray

        nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        return Room(tuple(nodes), can_grow=_has_autoscaler())

    def close(self, keep_logs: bool = False) -> None:
        """Disconnect, and stop the cluster if it was started for this process."""
        if not self.connected_here:
            return
        import ray

        ray.shutdown()
        _print_ray_messages(True)
        self.connected_here = False
        if self.started_here and self.session_dir is not None and not keep_logs:
            shutil.rmtree(self.session_dir, ignore_errors=True)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What a user can mend or wanted needs no logs; a run that was given up and all else may.
        expected = error is None or isinstance(
            error, UsageError | DataError | PreemptedError | KeyboardInterrupt
        )
        self.close(keep_logs=not expected)


def connect(address: str | None = None, *, batch_work: bool = False) -> Connection:
    """Reach a Ray cluster, with the token.

    Args:
        address: `host:port` of a cluster; `auto`, the one that `distgen cluster up` started; None,
            the cluster that this process is part of (`RAY_ADDRESS`, set inside Ray jobs), or else
            a private one on this machine, with its dashboard on loopback.
        batch_work: Whether a private one is for work on CPUs that answers nobody, such as training:
            its processes do not interrupt each other then (`launch.scheduling`).

    Raises:
        UsageError: No cluster answers at the address, or it refuses the token.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        return _existing(address)
    _print_ray_messages(False)
    auth.ensure_token()
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None or address == "local":
        return _start_local(batch_work)
    gcs = _gcs_address(address)
    dial(gcs, gcs)
    auth.present_token()
    return _join(gcs)


def _existing(address: str | None) -> Connection:
    import ray

    context = ray.get_runtime_context()
    here = str(context.gcs_address)
    if address not in (None, "local") and _gcs_address(str(address)) != here:
        raise UsageError(
            f"This process is connected to the cluster at {here} already.",
            cause=f"another one was asked for: {address}",
            remedy="use one cluster per process",
        )
    return _connection(here, connected_here=False, started_here=False)


def _start_local(batch_work: bool) -> Connection:
    import ray

    prepare_environment(private=True)
    with loopback.on_loopback(), as_batch_work(batch_work):
        ray.init(
            address="local",
            include_dashboard=True,  # without it Train leaks placement groups
            dashboard_host="127.0.0.1",
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=str(temp_root()),
        )
    gcs = str(ray.get_runtime_context().gcs_address)
    return _connection(gcs, connected_here=True, started_here=True)


def _join(gcs: str) -> Connection:
    import ray

    try:
        with loopback.on_loopback(loopback.listens_on_loopback_only(gcs)):
            ray.init(address=gcs, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        ray.shutdown()
        if "version mismatch" in str(error).lower():
            raise UsageError(
                "The Ray cluster has other versions than this process.",
                where=gcs,
                cause=" ".join(str(error).split())[:300],
                remedy="install the same Python and Ray on both: infra/constraints.txt",
            ) from error
        raise UsageError(
            "The Ray cluster does not let this process in.",
            where=gcs,
            cause=f"the token in {auth.token_file()} is not the cluster's, "
            f"or another service listens there ({' '.join(str(error).split())[:200]})",
            remedy="copy ~/.ray/auth_token from the cluster's head node, mode 0600",
        ) from error
    return _connection(gcs, connected_here=True, started_here=False)


def _connection(gcs: str, *, connected_here: bool, started_here: bool) -> Connection:
    from ray._private.worker import global_worker

    node = global_worker.node
    dashboard = node.address_info.get("webui_url")
    session = Path(node.get_session_dir_path())
    return Connection(
        address=gcs,
        dashboard_url=f"http://{dashboard}" if dashboard else None,
        session_dir=session if session.is_dir() else None,
        connected_here=connected_here,
        started_here=started_here,
    )


def _gcs_address(address: str) -> str:
    """`host:port` from what a user may write."""
    if address == "auto":
        return _own_cluster().address
    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"{address!r} is a dashboard, which takes job files and not drivers.",
            remedy=f"distgen submit JOB --address {address}, or give host:port of the head",
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(
            f"{address!r} is not the address of a Ray cluster.",
            remedy="write host:port (6379 by default), or auto for the one of `distgen cluster up`",
        )
    return f"{host}:{port}"


def _own_cluster() -> ClusterState:
    state = read_state()
    if state is None:
        raise UsageError(
            "No cluster of yours runs on this machine.", remedy="distgen cluster up --nodes 2"
        )
    return state


def dial(host_and_port: str, shown: str) -> None:
    """Fail at once where nothing listens; Ray itself would try for more than a minute.

    Raises:
        UsageError: Nothing listens at the address, which the message names as `shown`.
    """
    host, _, port = host_and_port.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=DIAL_TIMEOUT_S):
            return
    except (OSError, OverflowError, ValueError) as error:  # no such port, no such name
        raise UsageError(
            "No Ray cluster answers.",
            where=shown,
            cause=str(error),
            remedy="check the address; `distgen cluster status` shows the one on this machine, "
            "`distgen cluster up` starts one",
        ) from error


def _print_ray_messages(wanted: bool) -> None:
    """Whether Ray prints its nodes' warnings on this process's stdout, where results belong.

    `log_to_driver=False` silences workers only; this is the switch that Ray's debugger uses.
    """
    from ray._private import worker

    worker._worker_logs_enabled = wanted


def _has_autoscaler() -> bool:
    from ray._private.state import state

    return bool(state.get_max_resources_from_cluster_config())
