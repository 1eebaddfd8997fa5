"""Ranks that hang: noticed by their silence, looked into, and ended, so that the run goes on.

A process that is stopped, or waits for a lock, a disk or a peer for ever, is alive to everybody who
asks whether it lives. A healthy rank 0 is heard every few seconds, whatever it does.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distgen.core.birth import find
from distgen.launch.telemetry import Member, News

LOOK_TIMEOUT_S = 20.0
"""Time that the stacks of one process may take."""
NODE_TIMEOUT_S = 60.0
"""Time after which a node that was asked about its ranks is left to Ray, which will lose it."""
LOST_TIMEOUT_S = 3.0
"""The same, where Ray has lost ranks meanwhile."""


class Silence:
    """How long a run's workers have not been heard.

    Args:
        patience_s: Seconds that they may be silent.
        clock: Seconds of a clock that nobody sets, and that stands still while the machine sleeps.
    """

    def __init__(self, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s = patience_s
        self._clock = clock
        self._heard: float | None = None
        self._attempts = 0

    def listen(self, news: News) -> None:
        """Take note of what has come in."""
        if news.faults:
            self._heard = None  # they are gone, and Ray may wait for a place for others
        started = news.attempts > self._attempts
        self._attempts = news.attempts
        if started or (news.ticks and self._heard is not None):
            self._heard = self._clock()

    def is_too_long(self) -> bool:
        """Whether workers have started, and were not heard for longer than they may."""
        return self._heard is not None and self._clock() - self._heard > self.patience_s

    def forget(self) -> None:
        """Wait for the next workers: these have been ended."""
        self._heard = None


@dataclass(frozen=True)
class Finding:
    """What was found of one rank that hangs."""

    rank: int
    state: str
    """What the system says of its process, such as `stopped`."""
    stacks: str
    """Where each of its threads is, or why that cannot be seen."""


class Look:
    """A look at what the ranks do, which ends them; the driver goes on while it lasts.

    Args:
        members: The ranks.
        clock: Seconds of a clock that nobody sets.
    """

    def __init__(
        self, members: Sequence[Member], clock: Callable[[], float] = time.monotonic
    ) -> None:
        by_node: dict[str, list[Member]] = defaultdict(list)
        for member in members:
            by_node[member.node].append(member)
        self._asked = [
            (ranks, _there(node).remote([(each.pid, each.started) for each in ranks]))
            for node, ranks in by_node.items()
        ]
        self._clock = clock
        self._until = clock() + NODE_TIMEOUT_S

    def hurry(self) -> None:
        """The ranks are lost anyway: give nodes that have not answered a moment more."""
        self._until = min(self._until, self._clock() + LOST_TIMEOUT_S)

    def findings(self) -> list[Finding] | None:
        """What was found, by rank; None while a node may still answer."""
        answers = [answer for _, answer in self._asked]
        _, waiting = ray.wait(answers, num_returns=len(answers), timeout=0)
        if waiting and self._clock() < self._until:
            return None
        found = [each for ranks, answer in self._asked for each in _found(ranks, answer)]
        return sorted(found, key=lambda finding: finding.rank)


def _found(ranks: Sequence[Member], answer: ray.ObjectRef) -> list[Finding]:
    try:
        seen = ray.get(answer, timeout=0)
    except (ray.exceptions.RayError, TimeoutError) as error:
        why = " ".join(str(error).split())[:200]
        seen = [("on a node that does not answer", why)] * len(ranks)
    return [Finding(member.rank, *each) for member, each in zip(ranks, seen, strict=True)]


def _there(node: str) -> ray.remote_function.RemoteFunction:
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(look_and_end).options(num_cpus=0, max_retries=0, scheduling_strategy=place)


def look_and_end(processes: Sequence[tuple[int, float]]) -> list[tuple[str, str]]:
    """On the node itself: state and stacks of each process, which are ended after the last look.

    Args:
        processes: Their numbers, and when each began: numbers come again.
    """
    found = [find(pid, started) for pid, started in processes]
    seen = [
        ("ended", "") if each is None else (each.status(), stacks_of(each.pid)) for each in found
    ]
    for process in found:
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    return seen


def stacks_of(pid: int) -> str:
    """Where each thread of a Python process is, without stopping it; or why that is not known."""
    beside = Path(sys.executable).with_name("py-spy")
    tool = str(beside) if beside.exists() else shutil.which("py-spy")
    if tool is None:
        return "py-spy is not installed: pip install py-spy"
    try:
        ended = subprocess.run(  # noqa: S603  (a tool that comes with Ray, and a number)
            [tool, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True,
            text=True,
            timeout=LOOK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ended.stdout or ended.stderr
