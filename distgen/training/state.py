"""What a run is doing, read from what it has written: nobody asks its processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

ENDS = ("finished", "stopped", "given up", "diverged")
"""Events after which a run does nothing until it is started again."""
_BEGINS = ("started", "workers running", "resumed")
"""Events with which a run begins, or begins again."""
_SIGNS = 20
"""Last signs of life that tell how often a run gives one."""
_GAPS = 3.0
"""A run that is silent for so many times its longest pause is not running."""


@dataclass(frozen=True)
class State:
    """How a run looks from outside."""

    word: str
    """`prepared` (nothing yet), `running`, `silent` (it ended without a word, or its host is lost),
    or how it ended: `finished`, `stopped`, `given up`, `diverged`."""
    silent_s: float | None
    """Seconds since its last sign of life; None where there was none."""


def state_of(
    events: Sequence[Mapping[str, Any]],
    points: Iterable[Mapping[str, Any]],
    *,
    patience_s: float,
    now: float,
) -> State:
    """The state of a run.

    Args:
        events: Its events, oldest first.
        points: Its curves, oldest first.
        patience_s: Seconds of silence that mean nothing, however often it speaks.
        now: Seconds since 1970.
    """
    times = [_time_of(event) for event in events]
    signs = sorted([*times, *(float(row["time"]) for row in points)])
    if not signs:
        return State("prepared", None)
    silent_s = max(0.0, now - signs[-1])
    if events and events[-1]["event"] in ENDS:
        return State(str(events[-1]["event"]), silent_s)
    # Until it was started again nobody expected a sign: that was no pause of a run.
    begun = {time for time, event in zip(times, events, strict=True) if event["event"] in _BEGINS}
    pauses = (b - a for a, b in pairwise(signs[-_SIGNS:]) if b not in begun)
    pause_s = max(pauses, default=0.0)
    running = silent_s <= max(patience_s, _GAPS * pause_s)
    return State("running" if running else "silent", silent_s)


def _time_of(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(event["time"])).timestamp()
