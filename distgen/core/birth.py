"""When a process began, by a clock that nobody sets: with its number, that names it for good."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_STARTTIME = 19
"""Place of a process's start in its line in /proc, counted from behind its name (proc(5): 22)."""
_TICK_S = 0.011
"""A little more than the kernel's unit of these times."""


def started_at(pid: int | None = None) -> float:
    """When a process began, in seconds since its machine was started; by default this one.

    Seconds of the calendar would move with every correction of the machine's clock, and a process
    that runs would seem to be another one.

    Raises:
        psutil.NoSuchProcess: There is no such process.
    """
    pid = os.getpid() if pid is None else pid
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            raise psutil.NoSuchProcess(pid) from None
        return float(psutil.Process(pid).create_time())  # another system, which has no /proc
    return int(text.rpartition(")")[2].split()[_STARTTIME]) / os.sysconf("SC_CLK_TCK")


def find(pid: int, started: float) -> psutil.Process | None:
    """The process of this number that began then, or None where it has ended: numbers come again.

    Args:
        pid: Its number.
        started: What `started_at` has said of it.
    """
    try:
        process = psutil.Process(pid)
        same = abs(started_at(pid) - started) < _TICK_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
