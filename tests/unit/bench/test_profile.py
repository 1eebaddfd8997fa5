"""A profile's parts are a step's whole time, and each moment counts once."""

from __future__ import annotations

import pytest

from distgen.bench.profile import EXCHANGE, OTHER, Spans, bench_profile
from distgen.core.config import parse
from distgen.core.spans import recording, span
from distgen.training.job import TrainJob

MODELS = {
    "gan": {"family": "gan", "latent_dim": 4, "width": 8},
    "vae": {"family": "vae", "latent_dim": 4, "width": 8},
}


class Counted:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


def test_every_moment_counts_for_the_innermost_span():
    clock = Counted()
    spans = Spans(clock)
    with recording(spans):
        clock.time += 1
        with span("outer"):
            clock.time += 2
            with span("inner"):
                clock.time += 4
            clock.time += 8
        with span("outer"):
            clock.time += 16
    assert spans.totals() == {"outer": 26.0, "inner": 4.0, OTHER: 1.0}


def test_what_follows_the_last_bucket_is_waiting_for_other_ranks():
    clock = Counted()
    spans = Spans(clock)
    with recording(spans):
        with span("backward"):
            for _ in range(3):
                clock.time += 1
                spans.tail(EXCHANGE)
            clock.time += 10
        with span("backward"):
            clock.time += 5
    assert spans.totals() == {"backward": 8.0, EXCHANGE: 10.0, OTHER: 0.0}


@pytest.mark.parametrize(("family", "workers"), [("gan", 1), ("vae", 2)])
@pytest.mark.slow
def test_the_parts_of_a_profile_add_up_to_the_step(family, workers, digits, tmp_path):
    raw = {
        "name": "profiled",
        "storage": str(tmp_path),
        "data": {"shards": digits},
        "model": MODELS[family],
        # Schedules are what does not travel to the ranks' processes by itself.
        "training": {
            "images": 1,
            "batch_size": 16,
            "betas": [0.0, {"start": 0.9, "end": 0.99, "images": 10}],
        },
        "scaling": {"workers": workers},
    }
    result = bench_profile(parse(TrainJob, raw, "test"), images=48)
    parts = result["parts"]
    assert sum(parts.values()) == pytest.approx(result["step_ms"])
    assert result["images_per_s"] == pytest.approx(16_000 / result["step_ms"])
    phases = ("discriminator", "generator") if family == "gan" else ("model",)
    for phase in phases:
        assert {f"{phase}: {part}" for part in ("forward", "backward", "optimiser")} <= set(parts)
    assert {"wait for pictures", "pictures to device", "logging", "average of weights"} <= set(
        parts
    )
    assert ("discriminator: gradient for penalties" in parts) == (family == "gan")
    assert (EXCHANGE in parts) == (workers > 1)
    assert not list(tmp_path.iterdir()), "a profile leaves no run behind"
