"""Work is tried again while that may help, and no longer than the patience lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from distgen.core.retry import WAIT_LOGGER, Patience, outlast, persist

QUICK = Patience(deadline_s=5.0, attempt_s=5.0, first_pause_s=0.001, longest_pause_s=0.01)


def failing(*errors: Exception) -> tuple[Callable[[], str], list[int]]:
    """Work that raises these and then succeeds, and its number of calls."""
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return "done"

    return work, calls


def test_passing_errors_pass() -> None:
    work, calls = failing(OSError("once"), OSError("twice"))
    assert persist(work, lambda _: True, QUICK) == "done"
    assert len(calls) == 3


def test_final_error_is_raised_at_once() -> None:
    work, calls = failing(OSError("denied"), OSError("denied"))
    with pytest.raises(OSError, match="denied"):
        persist(work, lambda _: False, QUICK)
    assert len(calls) == 1


def test_other_errors_are_not_taken_for_the_networks() -> None:
    work, calls = failing(ValueError("a mistake"))
    with pytest.raises(ValueError, match="a mistake"):
        persist(work, lambda _: True, QUICK)
    assert len(calls) == 1


def test_last_error_is_raised_when_patience_ends() -> None:
    work, calls = failing(*[OSError(str(n)) for n in range(10_000)])
    with pytest.raises(OSError, match=r"\d") as raised:
        persist(work, lambda _: True, Patience(0.05, 1.0, 0.001, 0.005))
    assert raised.value.args == (str(len(calls) - 1),)
    assert len(calls) > 2


def test_work_that_hangs_is_left_behind_and_tried_again() -> None:
    never = threading.Event()
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        if len(calls) == 1:
            never.wait(60)
        return "done"

    assert persist(work, lambda _: True, Patience(30.0, 0.05, 0.001, 0.01)) == "done"
    never.set()


def test_work_that_always_hangs_ends_in_a_timeout() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError, match="no answer"):
        persist(lambda: never.wait(60), lambda _: True, Patience(0.2, 0.05, 0.001, 0.01))
    never.set()


def test_what_was_waited_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    work, _ = failing(OSError("busy\n now"), OSError("still busy"))
    with caplog.at_level("INFO", WAIT_LOGGER):
        outlast(work, lambda _: True, QUICK)
        outlast(lambda: "at once", lambda _: True, QUICK)
    (record,) = caplog.records
    wait = record.wait  # type: ignore[attr-defined]
    assert (wait.tries, wait.cause) == (3, "still busy")
    assert wait.seconds > 0


def test_what_is_outlasted_is_tried_in_the_thread_that_asks() -> None:
    assert outlast(threading.get_ident, lambda _: True, QUICK) == threading.get_ident()
