"""Ranks that hang are noticed by their silence; whoever is only waited for is left alone."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from distgen.core.birth import started_at
from distgen.launch.telemetry import News
from distgen.launch.watchdog import Silence, look_and_end

TICK = {"images_seen": 64}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def silence(clock: Clock) -> Silence:
    return Silence(10.0, clock)


def test_workers_may_be_silent_for_as_long_as_they_may(silence: Silence, clock: Clock) -> None:
    silence.listen(News(attempts=1))
    clock.now += 9
    silence.listen(News(attempts=1, ticks=[TICK]))
    clock.now += 9
    silence.listen(News(attempts=1))
    assert not silence.is_too_long()
    clock.now += 2
    assert silence.is_too_long()


def test_nobody_is_waited_for_before_the_first_worker_has_started(
    silence: Silence, clock: Clock
) -> None:
    silence.listen(News())
    clock.now += 1000
    assert not silence.is_too_long()


def test_after_a_fault_the_next_workers_are_waited_for_without_end(
    silence: Silence, clock: Clock
) -> None:
    silence.listen(News(attempts=1, ticks=[TICK]))
    silence.listen(News(attempts=1, faults=["rank 0: it died"], ticks=[TICK]))
    clock.now += 1000
    assert not silence.is_too_long(), "Ray looks for a place"
    silence.listen(News(attempts=2))
    clock.now += 11
    assert silence.is_too_long(), "the new workers hang"


def test_what_was_ended_is_not_ended_again(silence: Silence, clock: Clock) -> None:
    silence.listen(News(attempts=1))
    clock.now += 11
    silence.forget()
    silence.listen(News(attempts=1, ticks=[TICK]))
    clock.now += 1000
    assert not silence.is_too_long()


@pytest.fixture
def hanging() -> subprocess.Popen:
    """A Python process that waits for ever in a function of its own."""
    script = "import time\ndef waits_for_ever():\n    print(1, flush=True)\n    time.sleep(1e6)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script + "waits_for_ever()"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_rank_is_looked_into_and_ended(hanging: subprocess.Popen) -> None:
    ((state, stacks),) = look_and_end([(hanging.pid, started_at(hanging.pid))])
    assert state == psutil.STATUS_SLEEPING
    assert "waits_for_ever" in stacks
    assert hanging.wait() == -9


def test_a_number_that_came_again_is_nobody_s(hanging: subprocess.Popen) -> None:
    assert look_and_end([(hanging.pid, started_at(hanging.pid) - 60)]) == [("ended", "")]
    time.sleep(0.05)
    assert hanging.poll() is None
