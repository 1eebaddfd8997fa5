"""The table of what runs survive: a line for each fault, printed when the tests have ended."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

SLOWER = float(os.environ.get("FAULTS_SLOWER", "1"))
"""Times that this machine is slower than an idle one: to try these tests beside other work."""
DETECTED_WITHIN_S = 15.0 * SLOWER
BACK_WITHIN_S = 30.0 * SLOWER

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Survived:
    """What a fault has cost a run. Seconds are those of the run's own events."""

    fault: str
    weights_equal: bool
    images_lost: int = 0
    detected_s: float | None = None
    """From the fault to the event that tells of it; None where nothing has to notice it."""
    back_s: float | None = None
    """From there, or from the command that goes on, to the first step; None if it never stopped."""

    def line(self) -> str:
        """As a line of the table."""
        return (
            f"{self.fault:44} {_seconds(self.detected_s):>12} {_seconds(self.back_s):>10} "
            f"{self.images_lost:>11,} {'yes' if self.weights_equal else 'NO':>13}"
        )


HEADER = f"{'fault':44} {'detected':>12} {'back':>10} {'images lost':>11} {'weights equal':>13}"
TABLE = pytest.StashKey[list[Survived]]()


def broken_promises(survived: Survived, checkpoint_every: int) -> list[str]:
    """What was promised of each fault, and was not kept."""
    kept = {
        "final weights are those of a run that nothing happened to": survived.weights_equal,
        f"at most {checkpoint_every} images lost": survived.images_lost <= checkpoint_every,
        f"detected within {DETECTED_WITHIN_S:g} s": (survived.detected_s or 0) <= DETECTED_WITHIN_S,
        f"back within {BACK_WITHIN_S:g} s": (survived.back_s or 0) <= BACK_WITHIN_S,
    }
    return [promise for promise, was_kept in kept.items() if not was_kept]


def judge(survived: Survived, checkpoint_every: int) -> None:
    """Hold a run to what is promised of each fault."""
    assert not broken_promises(survived, checkpoint_every), survived.line()


def first_after(events: Sequence[Event], at: float, *kinds: str) -> Event | None:
    """The first event of one of these kinds from `at` on, in seconds since 1970."""
    return next((e for e in events if e["event"] in kinds and when(e) >= at), None)


def when(event: Event) -> float:
    """When an event was told, in seconds since 1970."""
    return datetime.fromisoformat(event["time"]).timestamp()


def lost_after(events: Sequence[Event], at: float) -> int:
    """Images that were trained again since `at`."""
    resumed = [e for e in events if e["event"] in ("resumed", "started") and when(e) >= at]
    return sum(int(event.get("lost_images", 0)) for event in resumed)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
