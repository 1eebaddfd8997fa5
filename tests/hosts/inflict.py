"""What may happen to a run on hosts: each function does it once, to a run that goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.cluster import Run
from tests.hosts.network import Host

_DRAIN = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2
reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
deadline = int((time.time() + 60) * 1000)
accepted, why = GcsClient(address=sys.argv[1]).drain_node(sys.argv[2], reason, "spot", deadline)
assert accepted, why
"""

_MEMORY_GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)
"""Where the two versions of cgroups have memory."""


def victim(run: Run) -> tuple[int, Host]:
    """A rank that is not on the driver's host, and its host."""
    for member in run.ranks():
        host = run.place_of(member["rank"])
        if host is not run.host:
            return int(member["rank"]), host
    raise AssertionError("all ranks are on the driver's host")


def pid_of(run: Run, rank: int) -> int:
    """The number of a rank's process."""
    return int(run.ranks()[rank]["pid"])


def kill_worker(run: Run, rank: int = 1) -> None:
    """SIGKILL of one rank."""
    os.kill(pid_of(run, rank), signal.SIGKILL)


def kill_node(run: Run) -> Host:
    """SIGKILL of all processes of a host, which is returned."""
    _, host = victim(run)
    host.kill()
    return host


def kill_driver(run: Run) -> None:
    """SIGKILL of the command that was given."""
    assert run.driver is not None
    run.driver.kill()
    run.driver.wait()


def end_driver(run: Run) -> int:
    """SIGTERM of the command that was given; its exit code."""
    assert run.driver is not None
    run.driver.terminate()
    return run.ends()


def kill_controller(run: Run) -> None:
    """SIGKILL of Ray Train's controller."""
    (controller,) = [p for p in run.host.processes() if "TrainController" in p.cmdline()[0]]
    controller.kill()


def cut_for(run: Run, seconds: float) -> None:
    """Pull a host's cable, and plug it in again."""
    _, host = victim(run)
    host.cut()
    time.sleep(seconds)
    host.join()


def cut_for_good(run: Run) -> Host:
    """Pull the cable of a host, which is returned."""
    _, host = victim(run)
    host.cut()
    return host


def hang(run: Run) -> int:
    """SIGSTOP of a rank, which is returned."""
    rank, _ = victim(run)
    os.kill(pid_of(run, rank), signal.SIGSTOP)
    return rank


def slow_down(run: Run, seconds: float) -> None:
    """Let a rank have a fifth of its time."""
    pid, over = pid_of(run, victim(run)[0]), threading.Event()

    def stop_and_go() -> None:
        with contextlib.suppress(ProcessLookupError):
            while not over.wait(0.1):
                os.kill(pid, signal.SIGSTOP)
                over.wait(0.4)
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    time.sleep(seconds)
    over.set()
    thread.join()


@contextmanager
def short_of_memory(pid: int) -> Iterator[None]:
    """Inside, the kernel kills a process as soon as it wants a megabyte more than it has."""
    parent, limit = memory_groups() or _MEMORY_GROUPS[-1]
    group = parent / f"dg{pid}"
    group.mkdir()
    try:
        (group / limit).write_text("1000000")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while (group / "cgroup.procs").read_text():
            time.sleep(0.05)
        group.rmdir()


def memory_groups() -> tuple[Path, str] | None:
    """Where this machine divides its memory, and the name of a group's limit there, if it does."""
    for parent, limit in _MEMORY_GROUPS:
        controllers = parent / "cgroup.controllers"
        has = not controllers.is_file() or "memory" in controllers.read_text().split()
        if parent.is_dir() and has and os.access(parent, os.W_OK):
            return parent, limit
    return None


def drain(run: Run) -> Host:
    """Announce that a host, which is returned, leaves in a minute.

    The ranks stand still until the driver has heard of it: a run of a test would be over before.
    """
    _, host = victim(run)
    cluster = run.cluster
    told = len(run.events("node leaving"))
    asked = [sys.executable, "-c", _DRAIN, cluster.address, cluster.alive()[host]]
    with held([int(member["pid"]) for member in run.ranks()]):
        subprocess.run(asked, env=cluster.environment, check=True)
        run.waits(lambda: len(run.events("node leaving")) > told, "the news of the drain")
    return host


@contextmanager
def held(pids: Sequence[int]) -> Iterator[None]:
    """Processes that stand still inside."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
