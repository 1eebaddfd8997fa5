"""What a machine must have for a run: disk, shared memory, open files, a network interface."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from distgen.core.finding import Finding, gib, ok, problem, warning
from distgen.core.ports import is_free, is_loopback

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (looked at, not written)
LEAST_DISK = 512 * 2**20
"""Bytes that a disk must have left for logs, sockets and small files alone."""
LITTLE_DISK = 2 * 2**30
"""Bytes below which a disk is worth a warning."""
SPILL_SHARE = 0.05
"""Part of a disk that must be free, or Ray no longer moves objects to it."""
ROOMY_SHARED_MEMORY = 2**30
"""Bytes; a container that nobody has told otherwise has 64 MiB."""
MANY_FILES = 4096
"""Open files and connections that a node of a large run can need at once."""
INTERFACE = "GLOO_SOCKET_IFNAME"
"""The variable by which gloo is told its network interface."""
SLOW_NAME_S = 1.0
"""Seconds that no name server takes which answers."""
SHORT_OF_DISK = "make room there: df -h"


def session_disk(folder: Path) -> Finding:
    """Whether Ray has room for its sessions: logs, and objects that memory does not hold."""
    place, usage = _usage(folder)
    seen = f"{gib(usage.free)} of {gib(usage.total)} free at {place}"
    remedy = f"{SHORT_OF_DISK}; or RAY_TMPDIR=<a folder on a larger disk> before Ray starts"
    if usage.free < LEAST_DISK:
        return problem("disk", f"{seen}, where Ray keeps its sessions", remedy)
    if usage.free < max(LITTLE_DISK, SPILL_SHARE * usage.total):
        return warning("disk", f"{seen}: Ray moves no objects to a disk so full", remedy)
    return ok("disk", seen)


def storage_disk(folder: Path, checkpoint_bytes: int = 0) -> Finding:
    """Whether a folder on a disk has room for checkpoints.

    Args:
        folder: Where runs are kept; it need not be there yet.
        checkpoint_bytes: Size of one; a new one is written beside the old.
    """
    place, usage = _usage(folder)
    seen = f"{gib(usage.free)} of {gib(usage.total)} free at {place}"
    if usage.free < max(LEAST_DISK, checkpoint_bytes):
        needs = f", and a checkpoint takes {gib(checkpoint_bytes)}" if checkpoint_bytes else ""
        return problem("storage disk", seen + needs, f"{SHORT_OF_DISK}; or another `storage`")
    if usage.free < max(LITTLE_DISK, 3 * checkpoint_bytes):
        return warning("storage disk", seen, f"{SHORT_OF_DISK}; or another `storage`")
    return ok("storage disk", seen)


def memory(need: int, gpu_bytes: int | None = None) -> Finding:
    """Whether there is memory for what a rank keeps from step to step.

    Args:
        need: Its bytes.
        gpu_bytes: Of the GPU on which it keeps them; None: this machine's.
    """
    total = psutil.virtual_memory().total if gpu_bytes is None else gpu_bytes
    if total < need:
        owner = "this machine" if gpu_bytes is None else "its GPU"
        return problem(
            "memory",
            f"{owner} has {gib(total)}, and weights, gradients and optimiser of one rank "
            f"alone take {gib(need)}",
            "smaller networks (model.width, model.blocks), or no ranks there",
        )
    return ok("memory", f"{gib(total)} in all")


def shared_memory(need: int = 2**20) -> Finding:
    """Whether `/dev/shm` has `need` bytes for the ranks of this machine, and some for Ray."""
    subject, remedy = (
        str(SHARED_MEMORY),
        "docker run --shm-size=4g; Kubernetes: an emptyDir with medium Memory at /dev/shm",
    )
    if not SHARED_MEMORY.is_dir():
        return ok(subject, "not on this system, which does without")
    usage = shutil.disk_usage(SHARED_MEMORY)
    seen = f"{gib(usage.free)} of {gib(usage.total)} free"
    if usage.free < need:
        return problem(subject, f"{seen}, and the ranks here take {gib(need)}", remedy)
    if usage.total < ROOMY_SHARED_MEMORY:
        return warning(subject, f"{seen}: Ray keeps objects on the disk instead", remedy)
    return ok(subject, seen)


def open_files() -> Finding:
    """Whether a process may have enough files and connections open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MANY_FILES:
        return ok("open files", f"at most {_number(soft)} in a process")
    raised = f"ulimit -n {min(65_536, hard) if hard >= MANY_FILES else 65_536}"
    by_whom = "" if hard >= MANY_FILES or hard == resource.RLIM_INFINITY else " (as root)"
    return warning(
        "open files",
        f"at most {_number(soft)} in a process; a large cluster takes more",
        f"{raised}{by_whom} before Ray starts",
    )


def interface(address: str, *, alone: bool = True) -> Finding:
    """Which network interface gloo will be told to talk through, and whether it can.

    Args:
        address: This node's in the cluster.
        alone: Whether no node of the cluster is on another host.
    """
    addresses = own_interfaces()
    told = os.environ.get(INTERFACE)
    names = ", ".join(sorted(addresses))
    for name in told.split(",") if told else ():
        if name not in addresses:
            return problem(
                "interface",
                f"{INTERFACE}={told} names none of this machine",
                f"unset {INTERFACE} before Ray starts, or name one of {names}",
            )
    if is_loopback(address) and not alone:
        return problem(
            "interface",
            f"{address} reaches this machine only, and the cluster has nodes on others",
            "start Ray here with --node-ip-address <its address in the cluster's network>",
        )
    if told:
        return ok("interface", f"{told}, as {INTERFACE} says")
    name_of_it = interface_of(address, addresses)
    if name_of_it is None:
        return warning(
            "interface",
            f"none has this node's address {address}; gloo takes what the host's name means",
            f"{INTERFACE}=<one of {names}> before Ray starts",
        )
    return ok("interface", f"{name_of_it} with {address}, and gloo is told so")


def names(address: str, look_up: Callable[[str], object] = socket.gethostbyaddr) -> Finding:
    """Whether a look-up of this machine's name is answered soon; no name is an answer, too.

    Args:
        address: The machine's in the cluster.
        look_up: Asks for the name of an address; raises an `OSError` where there is none.
    """
    started = time.monotonic()
    with suppress(OSError):
        look_up(address)
    took_s = time.monotonic() - started
    if took_s > SLOW_NAME_S:
        return warning(
            "names",
            f"it took {took_s:.1f} s to learn that of {address}, and every start of a group of "
            "workers waits for it",
            f"a line for {address} and each other node in /etc/hosts, or a name server that "
            "answers, in /etc/resolv.conf",
        )
    return ok("names", f"that of {address} was looked up in {1e3 * took_s:.0f} ms")


def free_ports(wanted: Mapping[int, str]) -> Finding:
    """Whether ports that commands take by default are free.

    Args:
        wanted: What each is for, with what to do where it is taken.
    """
    taken = [port for port in wanted if not is_free("", port)]
    if taken:
        return warning(
            "ports",
            "taken: " + ", ".join(map(str, taken)),
            "; ".join(wanted[port] for port in taken),
        )
    return ok("ports", ", ".join(map(str, wanted)) + " are free")


def stack_dumps(seen: str) -> Finding:
    """Whether the stacks of a rank that hangs could be seen.

    Args:
        seen: What py-spy said of a process of the same user.
    """
    if seen.lstrip().startswith("Process "):
        return ok("stack dumps", "py-spy may look into processes of this user")
    lines = [line.strip() for line in seen.splitlines() if line.strip()] or ["py-spy said nothing"]
    if "not installed" in seen:
        return warning("stack dumps", "py-spy is not installed", "pip install py-spy")
    return warning(
        "stack dumps",
        f"a rank that hangs could not be looked into: {lines[0][:120]}",
        "sysctl kernel.yama.ptrace_scope=0 on the host, or the capability SYS_PTRACE for the "
        "container",
    )


def gloo_interface(address: str) -> str | None:
    """The interface that gloo is to use: what it is told already, or else that of `address`."""
    return os.environ.get(INTERFACE) or interface_of(address, own_interfaces())


def own_interfaces() -> dict[str, list[str]]:
    """The addresses of each network interface of this machine."""
    return {
        name: [entry.address for entry in entries]
        for name, entries in psutil.net_if_addrs().items()
    }


def interface_of(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
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


def _usage(folder: Path) -> tuple[Path, shutil._ntuple_diskusage]:
    """The disk that `folder` is on or would be on, by the part of it that exists."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return place, shutil.disk_usage(place)


def _number(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else f"{limit:,}"
