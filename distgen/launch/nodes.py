"""A Ray cluster of separate node processes on this machine: up, status, down.

Every node is a `ray start --block` in a session of its own. The state file lists them (process
id and start time) from the moment before the first is started, so that `down` finds what an
interrupted `up` has left behind, and ends that and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from distgen.core.birth import started_at
from distgen.core.errors import DistgenError, UsageError
from distgen.core.ports import free_port, is_free, is_loopback, is_own
from distgen.launch import auth, loopback
from distgen.launch.environment import temp_root
from distgen.launch.state import (
    ClusterState,
    NodeProcess,
    failed_log,
    read_state,
    state_file,
    write_state,
)

GCS_PORT = 6379
DASHBOARD_PORT = 8265
START_TIMEOUT_S = 300.0
"""A node that dies is noticed at once; one on a busy machine may need minutes to import Ray."""
STOP_TIMEOUT_S = 20.0

JOB_STOP_WAIT_S = 120
"""Seconds between a job's SIGTERM and its SIGKILL: time for a checkpoint."""

JOB_START_WAIT_S = 30 * 24 * 3600
"""Seconds that a job may wait for a place of its own; Ray's quarter of an hour is no queue."""

_LOSS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2500",
    "RAY_health_check_failure_threshold": "4",
}
"""A node that does not answer for 14 seconds is lost, one that has died after four; Ray's own wait
is a minute. After ten seconds without a network it may take three more until TCP tries again."""

MARK = "DISTGEN_CLUSTER"
"""Environment variable by which every process of a cluster can be told, whoever started it."""

OBJECT_STORE_SHARE = 0.3
"""Part of the machine's memory that all object stores may take together; Ray's own default."""


@dataclass(frozen=True)
class ClusterStatus:
    """What `distgen cluster status` says."""

    state: ClusterState | None
    nodes_alive: int = 0
    nodes_registered: int = 0
    cpus: float = 0.0
    gpus: float = 0.0
    answers: bool = False
    """Whether the dashboard answers with this user's token."""

    @property
    def healthy(self) -> bool:
        """Whether every node that was started runs and is known to the head.

        Nodes of other machines, which have joined, are known to it too.
        """
        wanted = len(self.state.nodes) if self.state else 0
        return self.answers and self.nodes_alive == wanted <= self.nodes_registered


def _silent(text: str) -> None:
    """Nobody is waiting for progress."""


def up(
    nodes: int,
    *,
    cpus_per_node: int | None = None,
    gpus_per_node: int = 0,
    host: str | None = None,
    port: int | None = None,
    dashboard_port: int | None = None,
    on_progress: Callable[[str], None] = _silent,
) -> ClusterState:
    """Start a cluster of `nodes` node processes with the token in force.

    Args:
        nodes: Number of nodes, the head included; each is a raylet of its own.
        cpus_per_node: What each node offers; by default this machine's cores, shared equally.
        gpus_per_node: What each node offers.
        host: The address of this machine at which others may join; by default none may, and every
            port of the cluster is on loopback.
        port: The GCS's; by default 6379, or a free one where that is taken.
        dashboard_port: By default 8265, or a free one where that is taken.
        on_progress: Told what is being waited for.

    Raises:
        UsageError: A cluster of this user runs already, a port that was asked for is taken, or this
            machine has no such address.
        DistgenError: A node did not come up; what had been started has been ended.
    """
    if nodes < 1:
        raise UsageError(f"A cluster has at least one node, not {nodes}.")
    _refuse_second_cluster()
    if host is not None and not is_own(host):
        raise UsageError(
            f"{host} is not an address of this machine.",
            remedy="one that `ip address` or `ifconfig` shows, or none for loopback only",
        )
    auth.ensure_token()
    state = ClusterState(
        address=f"{host or loopback.ADDRESS}:{_choose_port(port, GCS_PORT)}",
        dashboard_url=f"http://127.0.0.1:{_choose_port(dashboard_port, DASHBOARD_PORT)}",
        temp_dir=str(_new_temp_dir()),
        cpus_per_node=cpus_per_node or max(1, (os.cpu_count() or 1) // nodes),
        gpus_per_node=gpus_per_node,
    )
    try:
        for index in range(nodes):
            on_progress("head" if index == 0 else f"node {index + 1} of {nodes}")
            _start_node(state, index, nodes)
            if index == 0:
                _wait_for(state, lambda seen: seen.answers)
        on_progress("all nodes to register")
        _wait_for(state, lambda seen: seen.healthy)
    except BaseException:
        _end(state)
        raise
    state.complete = True
    write_state(state)
    return state


def status() -> ClusterStatus:
    """What runs of the cluster that `up` started."""
    state = read_state()
    return ClusterStatus(None) if state is None else _inspect(state)


def down(on_progress: Callable[[str], None] = _silent) -> int:
    """End the cluster that `up` started: its processes, their sockets and its logs.

    Returns:
        The number of processes that were ended; 0 where nothing ran.
    """
    state = read_state()
    return 0 if state is None else _end(state, on_progress)


def _refuse_second_cluster() -> None:
    state = read_state()
    if state is None:
        return
    if not state.alive():  # died, or the machine was restarted
        _end(state)
        return
    raise UsageError(
        "A cluster of yours runs on this machine already."
        if state.complete
        else "A start of a cluster was interrupted, and some of its processes run.",
        where=f"{state.address}, dashboard {state.dashboard_url}",
        remedy="use it (--address auto), or end it: distgen cluster down",
    )


def _start_node(state: ClusterState, index: int, nodes: int) -> None:
    log = Path(state.temp_dir) / f"node-{index}.log"
    memory = int(psutil.virtual_memory().total * OBJECT_STORE_SHARE / nodes)
    command = [
        *(sys.executable, "-m", _starter(state), "start", "--block"),
        *("--num-cpus", str(state.cpus_per_node), "--num-gpus", str(state.gpus_per_node)),
        *("--object-store-memory", str(memory), "--temp-dir", _session_root(state, index)),
        # Ray's fixed range of worker ports would be shared by all nodes of this machine.
        *("--min-worker-port", "0", "--max-worker-port", "0"),
        # Two agents on one machine cannot listen on the same port either.
        *("--dashboard-agent-listen-port", str(free_port(""))),
        *(_head_flags(state) if index == 0 else ["--address", state.address]),
        *([] if index == 0 else ["--include-log-monitor", "false"]),  # nobody listens to it
    ]
    write_state(state)
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  (our own interpreter, no shell)
            command,
            env=_node_environment(state),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in this terminal is not theirs
            cwd=state.temp_dir,
        )
    state.nodes.append(NodeProcess(process.pid, started_at(process.pid), str(log)))
    write_state(state)


def _session_root(state: ClusterState, index: int) -> str:
    """A folder for each node: in one for all, each would unpack what a job has sent anew, and pull
    the folder away from under processes that work in it.
    """
    return state.temp_dir if index == 0 else f"{state.temp_dir}/{index}"


def _head_flags(state: ClusterState) -> list[str]:
    host, _, port = state.address.rpartition(":")
    return [
        *("--head", "--port", port),
        # On loopback Ray finds its address by itself, and makes another of one that it is given.
        *([] if is_loopback(host) else _joinable_flags(host)),
        *("--dashboard-host", "127.0.0.1"),
        *("--dashboard-port", state.dashboard_url.rpartition(":")[2]),
    ]


def _joinable_flags(host: str) -> list[str]:
    return ["--node-ip-address", host, "--ray-client-server-port", str(free_port(""))]


def _starter(state: ClusterState) -> str:
    """The module that is `ray` on the command line."""
    alone = is_loopback(state.address.rpartition(":")[0])
    return "distgen.launch.loopback" if alone else "ray.scripts.scripts"


def _node_environment(state: ClusterState) -> dict[str, str]:
    folder = str(Path(sys.executable).parent)
    return {
        **{name: value for name, value in os.environ.items() if name != loopback.SWITCH},
        MARK: state.temp_dir,
        # Parts of Ray look for a cluster where they are told none, and refuse to choose.
        "RAY_ADDRESS": state.address,
        # Jobs start `python`: it must be the one that has distgen.
        "PATH": folder + os.pathsep + os.environ.get("PATH", ""),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # `down` ends all nodes: none moves its work
        "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_WAIT_S),
        "RAY_JOB_START_TIMEOUT_SECONDS": str(JOB_START_WAIT_S),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **{name: value for name, value in _LOSS.items() if name not in os.environ},
    }


def _wait_for(state: ClusterState, condition: Callable[[ClusterStatus], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition(_inspect(state)):
        dead = [node for node in state.nodes if node.process() is None]
        if dead or time.monotonic() > deadline:
            log = Path((dead[0] if dead else state.nodes[-1]).log)
            kept = failed_log()
            shutil.copyfile(log, kept)
            raise DistgenError(
                "A node of the cluster did not come up."
                if dead
                else f"The cluster was not ready after {START_TIMEOUT_S:g} s.",
                where=str(kept),
                cause=_last_lines(log),
                remedy="mend what its log names, then the same command again",
            )
        time.sleep(0.2)


def _inspect(state: ClusterState) -> ClusterStatus:
    summary = _get_json(f"{state.dashboard_url}/nodes?view=summary")
    rows = summary["data"]["summary"] if summary else []
    raylets = [row["raylet"] for row in rows if row["raylet"].get("state") == "ALIVE"]
    totals = [raylet.get("resourcesTotal", {}) for raylet in raylets]
    return ClusterStatus(
        state=state,
        nodes_alive=len(state.alive()),
        nodes_registered=len(raylets),
        cpus=sum(total.get("CPU", 0.0) for total in totals),
        gpus=sum(total.get("GPU", 0.0) for total in totals),
        answers=summary is not None,
    )


def _get_json(url: str) -> Any:
    try:
        # The token goes to loopback only, and never through a proxy.
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            headers = {"Authorization": f"Bearer {auth.read_token()}"}
            return client.get(url, headers=headers).raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return None


def _end(state: ClusterState, on_progress: Callable[[str], None] = _silent) -> int:
    """SIGTERM to the nodes, the head last; SIGKILL to what is left of their trees."""
    family = {process.pid: process for process in _family(state)}
    for node in reversed(state.nodes):
        process = node.process()
        if process is None:
            continue
        on_progress(f"process {node.pid}")
        family.update({child.pid: child for child in _tree(process)})
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT_S)
    family.update({process.pid: process for process in _family(state)})
    _, left = psutil.wait_procs(list(family.values()), timeout=1.0)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
    shutil.rmtree(state.temp_dir, ignore_errors=True)
    state_file().unlink(missing_ok=True)
    return len(family)


def _tree(process: psutil.Process) -> Iterator[psutil.Process]:
    yield process
    with contextlib.suppress(psutil.Error):
        yield from process.children(recursive=True)


def _family(state: ClusterState) -> Iterator[psutil.Process]:
    """Processes of this cluster by the mark in their environment.

    Where a node was killed outright its children have lost their parent, and the process tree
    no longer leads to them; the mark, whose value is random, still does.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == state.temp_dir and process.pid != os.getpid():
                yield process


def _new_temp_dir() -> Path:
    path = temp_root() / f"c{uuid.uuid4().hex[:6]}"
    path.mkdir(mode=0o700)
    return path


def _choose_port(asked: int | None, usual: int) -> int:
    if asked is None:
        return usual if is_free("", usual) else free_port("")
    try:
        cause = None if is_free("", asked) else "another process listens on it"
    except OSError as error:  # a port below 1024 without the right to it
        cause = error.strerror
    if cause:
        raise UsageError(
            f"Port {asked} cannot be used on this machine.",
            cause=cause,
            remedy="leave it out, and a free one is used",
        )
    return asked


def _last_lines(path: Path, count: int = 8) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
    return "\n    ".join(lines[-count:]) or "it wrote nothing"
