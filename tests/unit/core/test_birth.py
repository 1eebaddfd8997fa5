"""A process is known again whatever is done to the machine's clock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from distgen.core.birth import find, started_at


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    """Another process."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_is_found_until_it_ends(other: subprocess.Popen) -> None:
    started = started_at(other.pid)
    assert find(other.pid, started) == psutil.Process(other.pid)
    other.kill()
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert find(other.pid, started) is None
    other.wait()
    assert find(other.pid, started) is None
    with pytest.raises(psutil.NoSuchProcess):
        started_at(other.pid)


def test_a_later_process_with_the_same_number_is_another_one() -> None:
    assert find(os.getpid(), started_at() - 1) is None


def test_a_clock_that_jumps_changes_nothing(
    other: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = started_at(other.pid)
    booted = psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted + 3600)
    assert find(other.pid, started) is not None
