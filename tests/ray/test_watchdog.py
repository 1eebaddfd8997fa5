"""Looking into ranks that hang, on the nodes themselves, while the driver goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
import ray

from distgen.core.birth import started_at
from distgen.launch import watchdog
from distgen.launch.cluster import Connection
from distgen.launch.telemetry import Member
from distgen.launch.watchdog import LOST_TIMEOUT_S, Finding, Look


def member(rank: int, pid: int) -> Member:
    here = ray.get_runtime_context().get_node_id()
    return Member(rank, pid, "here", "lo", node=here, started=started_at(pid))


def answer_of(look: Look) -> list[Finding]:
    while (found := look.findings()) is None:
        time.sleep(0.1)
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_ranks_are_looked_into_where_they_run_and_ended() -> None:
    program = "import sys; print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        gone = Member(1, process.pid, "here", "lo", member(0, process.pid).node, started=1.0)
        findings = answer_of(Look([gone, member(0, process.pid)]))
        assert [finding.rank for finding in findings] == [0, 1]
        assert findings[0].state == "sleeping"
        assert "<module>" in findings[0].stacks
        assert findings[1].state == "ended", "a process that has the same number by now"
        assert process.wait(30) < 0


def answers_late(processes: Sequence[tuple[int, float]]) -> list[tuple[str, str]]:
    time.sleep(20.0)
    return [("late", "")] * len(processes)


def test_a_node_that_does_not_answer_holds_nobody_up(
    ray_cluster: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ray_cluster.address
    monkeypatch.setattr(watchdog, "look_and_end", answers_late)
    now = [0.0]
    look = Look([member(0, os.getpid())], lambda: now[0])
    assert look.findings() is None
    now[0] += LOST_TIMEOUT_S
    assert look.findings() is None, "it may still answer"
    look.hurry()
    now[0] += LOST_TIMEOUT_S
    (found,) = answer_of(look)
    assert found.state == "on a node that does not answer"
