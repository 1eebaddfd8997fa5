"""Whether a run is running, from the times of what it wrote."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from distgen.training.state import ENDS, State, state_of


def event(kind: str, at: float) -> dict[str, object]:
    return {"event": kind, "time": datetime.fromtimestamp(at, UTC).isoformat(), "images_seen": 0}


def state(events: list[dict], points: list[float], now: float, patience_s: float = 600) -> State:
    rows = [{"time": time} for time in points]
    return state_of(events, rows, patience_s=patience_s, now=now)


def test_a_run_that_has_written_nothing_is_prepared():
    assert state([], [], 1000) == State("prepared", None)


@pytest.mark.parametrize("kind", ENDS)
def test_a_run_that_said_that_it_ended_has_ended_however_lately(kind):
    assert state([event("started", 0), event(kind, 10)], [5], 11) == State(kind, 1)


def test_a_run_started_again_after_its_end_is_running():
    found = state([event("stopped", 0), event("resumed", 1000)], [], 1010)
    assert found == State("running", 10)


def test_a_run_that_is_silent_for_longer_than_its_patience_is_not_running():
    assert state([event("started", 0)], [100, 200], 799).word == "running"
    assert state([event("started", 0)], [100, 200], 801).word == "silent"


def test_a_slow_run_may_be_silent_for_longer():
    points = [1000.0, 2000.0, 3000.0]
    assert state([event("started", 0)], points, 5900).word == "running"
    assert state([event("started", 0)], points, 6100).word == "silent"


@pytest.mark.parametrize("first", ["workers running", "resumed"])
def test_days_for_which_a_run_was_stopped_are_no_pause_of_it(first):
    days = 250_000.0
    events = [event("started", 0), event("stopped", 100), event(first, days)]
    assert state(events, [50, days + 10], days + 609).word == "running"
    assert state(events, [50, days + 10], days + 611).word == "silent"


def test_a_clock_that_went_back_makes_no_silence_negative():
    assert state([event("started", 100)], [], 50) == State("running", 0)
