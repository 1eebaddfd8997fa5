"""Trying again what fails for a while: exponential backoff with jitter, up to a deadline."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

WAIT_LOGGER = "distgen.waits"
"""Logger that hears of what worked at last; a record has it as `wait`."""
_logger = logging.getLogger(WAIT_LOGGER)


@dataclass(frozen=True)
class Wait:
    """Something that failed for a while, and then worked."""

    seconds: float
    """From the first try to the end of the last one."""
    tries: int
    cause: str
    """The last error."""


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
    return outlast(lambda: within(work, patience.attempt_s), is_transient, patience)


def outlast(work: Callable[[], T], passes: Callable[[OSError], bool], patience: Patience) -> T:
    """What `work` returns, tried again in this thread while its errors pass; see `persist`.

    Raises:
        OSError: The last error.
    """
    start = time.monotonic()
    pause_s, tries, cause = patience.first_pause_s, 1, ""
    while True:
        try:
            result = work()
        except OSError as error:
            # Many readers that failed together must not come back together.
            wait_s = random.uniform(0.5, 1.5) * pause_s
            if not passes(error) or time.monotonic() + wait_s >= start + patience.deadline_s:
                raise
            tries, cause = tries + 1, " ".join(str(error).split())[:300]
        else:
            if tries > 1:
                wait = Wait(time.monotonic() - start, tries, cause)
                _logger.info("%s: worked at try %d", cause, tries, extra={"wait": wait})
            return result
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
