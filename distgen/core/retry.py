"""Trying again what fails for a while: exponential backoff with jitter, up to a deadline."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long something is tried. All in seconds."""

    deadline_s: float = 120.0
    """From the first try to the start of the last one, whose error is raised."""
    attempt_s: float = 30.0
    """One try; a try that is still silent then counts as failed."""
    first_pause_s: float = 0.2
    """Mean pause after the first try; it doubles with every further one."""
    longest_pause_s: float = 10.0


def persist(
    work: Callable[[], T], is_transient: Callable[[OSError], bool], patience: Patience
) -> T:
    """What `work` returns, tried again while its errors are transient and the deadline is ahead.

    A try that hangs is left behind in its thread, which ends with it: libraries that read over the
    network have no timeout that covers all ways to hang.

    Raises:
        OSError: The last error; a `TimeoutError` where the last try hung.
    """
    deadline = time.monotonic() + patience.deadline_s
    pause_s = patience.first_pause_s
    while True:
        try:
            return within(work, patience.attempt_s)
        except OSError as error:
            # Many readers that failed together must not come back together.
            wait_s = random.uniform(0.5, 1.5) * pause_s
            if not is_transient(error) or time.monotonic() + wait_s >= deadline:
                raise
        time.sleep(wait_s)
        pause_s = min(2 * pause_s, patience.longest_pause_s)


def within(work: Callable[[], T], limit_s: float) -> T:
    """What `work` returns, if it does so in time; if not it is left behind in its thread.

    Raises:
        TimeoutError: It takes longer than `limit_s` seconds.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again where the result is waited for
            errors.append(error)

    thread = threading.Thread(target=target, name="distgen-try", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {limit_s:g} s")
    return results[0]
