"""Hosts on one machine: network namespaces with addresses of their own on a bridge.

All names carry the number of the process that made them, so that what a dead one has left behind
can be told from what is in use, and goes at the next start.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

_PREFIX = "dg"
_OURS = re.compile(rf"{_PREFIX}(\d+)(?:-\d+)?$")
_ROOT = Path("/tmp")  # sockets lie below, whose paths must be short
_SETTINGS = Path("/etc/netns")
"""`ip netns exec` shows what lies in a namespace's folder there as that host's own `/etc`."""
_NAMED = 'hostname "$0" && exec "$@"'


def missing() -> str | None:
    """Why this machine can have no such hosts, or None where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if absent:
        return f"{absent[0]} is not installed (Debian: iproute2, util-linux)"
    name = f"{_PREFIX}{os.getpid()}-0"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"this machine gives no network namespaces: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


@dataclass(eq=False)
class Host:
    """One host: its name, its address, and a folder that only it uses."""

    name: str
    """As its processes see it."""
    address: str
    namespace: str
    link: str
    """The bridge's end of its cable."""
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, command: Sequence[str], log: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process on this host, in its folder; what it says goes into `log` there."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.namespace),
                    *("unshare", "--uts", "--", "sh", "-c", _NAMED, self.name),
                    *command,
                ],
                env=dict(os.environ if environment is None else environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )
        self.started.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """Every process that runs on this host."""
        found = []
        for pid in _ip("netns", "pids", self.namespace).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return [each for each in found if _runs(each)]

    def running(self) -> list[str]:
        """The name of every process that runs on this host."""
        names = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                names.append(process.name())
        return names

    def kill(self) -> None:
        """End every process at once, as a lost machine does."""
        while processes := self.processes():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.05)
            self.reap()

    def reap(self) -> None:
        """Forget those that have ended."""
        self.started = [each for each in self.started if each.poll() is None]

    def cut(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self.link, "down")

    def join(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self.link, "up")


class Network:
    """A context manager: a bridge, and hosts on it; all of them gone afterwards.

    Args:
        hosts: How many.
    """

    def __init__(self, hosts: int) -> None:
        clear_leftovers()
        self.name = f"{_PREFIX}{os.getpid()}"
        subnet = _free_subnet()
        self.address = f"{subnet}.1"
        """This process's own in the network."""
        self.folder = _ROOT / self.name
        self.hosts = tuple(
            Host(
                name=f"host{number}",
                address=f"{subnet}.{10 + number}",
                namespace=f"{self.name}-{number}",
                link=f"{self.name}-{number}",
                folder=self.folder / f"h{number}",
            )
            for number in range(1, hosts + 1)
        )

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            _remove(self.name)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for host in self.hosts:
            host.kill()
        _remove(self.name)

    def _make(self) -> None:
        _ip("link", "add", self.name, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        names = "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        for host in self.hosts:
            host.folder.mkdir(parents=True, mode=0o700)
            settings = _SETTINGS / host.namespace
            settings.mkdir(parents=True)
            # Hosts know one another by name. Whoever asks for other names hears at once that there
            # are none: gloo looks the other ranks' names up, and would wait for a server's answer.
            (settings / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
            (settings / "resolv.conf").write_text("")
            inside = f"{host.link}e"
            _ip("netns", "add", host.namespace)
            _ip("link", "add", host.link, "type", "veth", "peer", "name", inside)
            _ip("link", "set", host.link, "master", self.name, "up")
            _ip("link", "set", inside, "netns", host.namespace, "name", "eth0")
            there = ("-n", host.namespace)
            _ip(*there, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip(*there, "link", "set", "lo", "up")
            _ip(*there, "link", "set", "eth0", "up")
            # Ray asks for the way to the world to learn a host's address.
            _ip(*there, "route", "add", "default", "via", self.address)


def clear_leftovers() -> None:
    """Remove what dead processes have left behind."""
    for owner in {_OURS.match(name) for name in _found()}:
        if owner is not None and not psutil.pid_exists(int(owner[1])):
            _remove(f"{_PREFIX}{owner[1]}")


def remains(name: str) -> list[str]:
    """What is there of the network of this name."""
    return sorted(each for each in _found() if each == name or each.startswith(f"{name}-"))


def _remove(name: str) -> None:
    for namespace in _namespaces():
        if namespace.startswith(f"{name}-"):
            for pid in _ip("netns", "pids", namespace).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "del", namespace)
    for link in _links():
        if link == name or link.startswith(f"{name}-"):
            # A cable goes with the namespace at its other end, some time after it.
            subprocess.run(["ip", "link", "del", link], capture_output=True)
    for settings in _SETTINGS.glob(f"{name}-*"):
        shutil.rmtree(settings)
    shutil.rmtree(_ROOT / name, ignore_errors=True)
    while set(_links()) & {each for each in _links() if each.startswith(f"{name}-")}:
        time.sleep(0.05)


def _found() -> set[str]:
    settings = (each.name for each in _SETTINGS.glob(f"{_PREFIX}*"))
    return {*_namespaces(), *_links(), *_folders(), *settings}


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]


def _links() -> list[str]:
    return [each.name for each in Path("/sys/class/net").iterdir()]


def _folders() -> list[str]:
    return [each.name for each in _ROOT.glob(f"{_PREFIX}*") if _OURS.match(each.name)]


def _free_subnet() -> str:
    taken = _ip("-o", "-4", "address", "show")
    start = os.getpid()
    candidates = (f"10.213.{(start + step) % 250 + 1}" for step in range(250))
    return next(each for each in candidates if f" {each}." not in taken)


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _ip(*arguments: str) -> str:
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if ended.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {ended.stderr.strip()}")
    return ended.stdout
