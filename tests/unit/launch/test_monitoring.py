"""What a run and an endpoint tell Prometheus is what happened, in the units that names promise."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from distgen.core.errors import PreemptedError, TrainingError
from distgen.core.storage import locate
from distgen.launch import monitoring
from distgen.launch.monitoring import Metric, RunMetrics, events_told, watch_shm
from distgen.launch.telemetry import Mailbox
from distgen.training.run import EVENT_LOGGER, RunFolder, Tick

LAST = (
    monitoring.SHM_USED_RATIO,
    monitoring.LAST_TICK_SECONDS,
)
"""A gauge of each thread that tells."""


class Ledger:
    """A sink that remembers; it refuses labels that a metric does not have, as Ray does."""

    def __init__(self) -> None:
        self.gauges: dict[tuple[str, ...], float] = {}
        self.counters: dict[tuple[str, ...], int] = {}
        self.told = threading.Event()

    def set(self, metric: Metric, value: float, labels: monitoring.Labels) -> None:
        assert (metric.kind, tuple(labels)) == ("gauge", metric.labels)
        self.gauges[metric.name, *labels.values()] = value
        if metric in LAST:
            self.told.set()

    def add(self, metric: Metric, labels: monitoring.Labels) -> None:
        assert (metric.kind, tuple(labels)) == ("counter", metric.labels)
        key = (metric.name, *labels.values())
        self.counters[key] = self.counters.get(key, 0) + 1


TRAINING = Tick(
    stage="train",
    images_seen=3_000,
    images=10_000,
    images_per_s=500.0,
    eta_s=14.0,
    data_wait=0.25,
    memory_gib=1.5,
)


def test_a_tick_is_told_in_base_units() -> None:
    ledger = Ledger()
    metrics = RunMetrics("fashion", ledger, clock=lambda: 1_000.0)
    metrics.tick(TRAINING)
    metrics.members(4)
    assert not ledger.gauges, "nothing is told but by refresh"
    metrics.refresh()
    assert ledger.gauges == {
        ("distgen_train_last_tick_timestamp_seconds", "fashion"): 1_000.0,
        ("distgen_train_images_seen", "fashion"): 3_000.0,
        ("distgen_train_length_images", "fashion"): 10_000.0,
        ("distgen_train_images_per_second", "fashion"): 500.0,
        ("distgen_train_remaining_seconds", "fashion"): 14.0,
        ("distgen_train_data_wait_ratio", "fashion"): 0.25,
        ("distgen_train_memory_bytes", "fashion"): 1.5 * 2**30,
        ("distgen_train_workers", "fashion"): 4.0,
    }


def test_gauges_are_told_again_while_nothing_comes_in_and_the_last_sign_grows_old() -> None:
    now = [1_000.0]
    ledger = Ledger()
    metrics = RunMetrics("fashion", ledger, clock=lambda: now[0])
    metrics.tick(TRAINING)
    metrics.refresh()
    before, now[0] = dict(ledger.gauges), 2_000.0
    ledger.gauges.clear()
    metrics.refresh()
    assert ledger.gauges == before, "Ray forgets gauges that are not set again"


def test_a_run_that_never_ticks_counts_from_its_start() -> None:
    ledger = Ledger()
    RunMetrics("fashion", ledger, clock=lambda: 7.0).refresh()
    assert ledger.gauges == {("distgen_train_last_tick_timestamp_seconds", "fashion"): 7.0}


def test_an_evaluation_is_progress_but_no_slow_training() -> None:
    now = [0.0]
    ledger = Ledger()
    metrics = RunMetrics("fashion", ledger, clock=lambda: now[0])
    metrics.tick(TRAINING)
    now[0] = 60.0
    metrics.tick(Tick(stage="evaluate", images_seen=3_000, images=10_000, detail="features"))
    metrics.refresh()
    assert ledger.gauges["distgen_train_last_tick_timestamp_seconds", "fashion"] == 60.0
    assert ledger.gauges["distgen_train_images_per_second", "fashion"] == 500.0


def test_events_are_counted_by_kind_and_cards_give_the_distance() -> None:
    ledger = Ledger()
    metrics = RunMetrics("fashion", ledger)
    metrics.recall([{"event": "evaluated", "distance": 90.0}, {"event": "rolled back"}])
    metrics.refresh()
    assert ledger.gauges["distgen_train_frechet_distance", "fashion"] == 90.0
    assert not ledger.counters, "what happened before this driver is not counted again"
    for row in ({"event": "rolled back"}, {"event": "evaluated", "distance": 21.5}) * 2:
        metrics.event(row)
    metrics.refresh()
    assert ledger.gauges["distgen_train_frechet_distance", "fashion"] == 21.5
    assert ledger.counters == {
        ("distgen_train_events_total", "fashion", "rolled back"): 2,
        ("distgen_train_events_total", "fashion", "evaluated"): 2,
    }


def test_a_card_of_an_older_run_without_a_distance_is_no_distance() -> None:
    ledger = Ledger()
    metrics = RunMetrics("fashion", ledger)
    metrics.recall([{"event": "evaluated", "headline": "FD 21.5"}])
    metrics.refresh()
    assert ("distgen_train_frechet_distance", "fashion") not in ledger.gauges


def test_each_event_that_rank_0_writes_reaches_the_driver_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, EVENT_LOGGER)
    folder, mailbox = RunFolder(locate(tmp_path)), Mailbox()
    folder.event("started", 0, ranks=2)
    with events_told(lambda row: asyncio.run(mailbox.tell(row))):
        folder.event("rolled back", 320, to=160)
        folder.event("given up", 480)
    folder.event("stopped", 500)
    news = asyncio.run(mailbox.take(0.0))
    assert news.events == folder.events()[1:3], "as they are in events.jsonl, and only inside"
    assert not asyncio.run(mailbox.take(0.0)).events, "each is told once"


def test_a_driver_tells_by_itself_and_counts_what_happens_in_its_process(tmp_path: Path) -> None:
    ledger, folder = Ledger(), RunFolder(locate(tmp_path))
    with RunMetrics("fashion", ledger).told() as metrics:
        assert ledger.told.wait(10), "nobody has called refresh"
        folder.event("workers lost", 320, cause="a node went")
        metrics.event({"event": "rolled back"})
    folder.event("workers lost", 480, cause="of a later run")
    assert ledger.counters == {
        ("distgen_train_events_total", "fashion", "workers lost"): 1,
        ("distgen_train_events_total", "fashion", "rolled back"): 1,
        ("distgen_train_departures_total", "fashion"): 1,
    }
    assert not [thread for thread in threading.enumerate() if thread.name == "metrics"]


@pytest.mark.parametrize(
    ("error", "in_order"),
    [
        (PreemptedError("stopped", where="here", remedy="again"), 1),
        (KeyboardInterrupt(), 1),
        (TrainingError("the workers failed 4 times"), 0),
        (OSError("the store is gone"), 0),
    ],
)
def test_only_an_end_or_a_stop_is_a_departure_in_order(error: BaseException, in_order: int) -> None:
    ledger = Ledger()
    with pytest.raises(type(error)), RunMetrics("fashion", ledger).told():
        raise error
    assert sum(ledger.counters.values()) == in_order


def test_a_node_tells_how_full_its_shared_memory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, ended = Ledger(), threading.Event()
    full = {"total": 64_000, "used": 40_000, "free": 16_000}  # the rest is kept for root
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(**full))
    thread = watch_shm("fashion", folder=str(tmp_path), sink=ledger, ended=ended)
    assert ledger.told.wait(10)
    ended.set()
    assert thread is not None
    thread.join(10)
    assert ledger.gauges == {("distgen_train_shm_used_ratio", "fashion"): 0.75}
    assert watch_shm("fashion", folder=str(tmp_path / "missing"), sink=ledger) is None


UNITS = ("_seconds", "_bytes", "_ratio", "_images", "_per_second")
COUNTS = ("_total", "_images_seen", "_workers", "_images_limit", "_frechet_distance")
"""What is counted, or has no unit, and is named in full."""


@pytest.mark.parametrize("metric", monitoring.METRICS, ids=lambda metric: metric.name)
def test_a_name_says_its_unit(metric: Metric) -> None:
    assert metric.name.startswith("distgen_")
    assert metric.name.endswith((*UNITS, *COUNTS))
    assert metric.name.endswith("_total") is (metric.kind == "counter")
    assert metric.help.endswith(".")


def test_every_metric_is_in_the_table_once() -> None:
    made = [value for value in vars(monitoring).values() if isinstance(value, Metric)]
    assert made == list(monitoring.METRICS)
    assert len({metric.name for metric in made}) == len(made)
