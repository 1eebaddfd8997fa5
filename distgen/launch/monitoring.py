"""Every metric that distgen gives to Prometheus, by name, and what keeps them up to date.

Ray's agent on each node exports them beside Ray's own, with `ray_` in front of their names. A gauge
that is not set again within two of Ray's report intervals is forgotten there. A run's gauges are
set again by its driver for as long as it lives, so that they stay while ranks hang, wait for a
place or are restarted, and go when nobody looks after the run any more. Counters stay, and are sent
at the driver's end.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from distgen.core.errors import PreemptedError

if TYPE_CHECKING:
    from distgen.training.run import Tick

_log = logging.getLogger(__name__)

REFRESH_S = 2.0
"""Seconds between two settings of a gauge: well below Ray's report interval of 10 s."""

Labels = Mapping[str, str]
Sample = tuple["Metric", Labels, float]
"""A metric, its labels, and its value now."""


@dataclass(frozen=True)
class Metric:
    """What Prometheus knows as `ray_<name>`."""

    name: str
    """With its unit, as Prometheus wants it; that of a counter ends in `_total`."""
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets, ascending; another has no end."""

    @property
    def exported(self) -> str:
        """The name that queries use, of a histogram without `_bucket`, `_sum` or `_count`."""
        return f"ray_{self.name}"

    def series(self) -> tuple[Metric, Metric, Metric]:
        """What a histogram is made of: `_bucket`, by label `le`, `_sum` and `_count`.

        They are gauges, which a process sets to all that it has counted, since Ray's own
        histograms cost as much for each observation as these for all of them together.
        """
        return (
            Metric(f"{self.name}_bucket", "gauge", self.help, (*self.labels, "le")),
            Metric(f"{self.name}_sum", "gauge", self.help, self.labels),
            Metric(f"{self.name}_count", "gauge", self.help, self.labels),
        )


def _of_run(name: str, text: str) -> Metric:
    return Metric(f"distgen_train_{name}", "gauge", text, ("run",))


IMAGES_PER_SECOND = _of_run("images_per_second", "Images trained on per second, over all ranks.")
IMAGES_SEEN = _of_run("images_seen", "The run's clock; a roll-back sets it back.")
LENGTH_IMAGES = _of_run("length_images", "The clock at which the run ends.")
REMAINING_SECONDS = _of_run("remaining_seconds", "Estimated time until then, evaluations apart.")
DATA_WAIT_RATIO = _of_run(
    "data_wait_ratio", "Share of the time in which the slowest rank waited for pictures, 0 to 1."
)
MEMORY_BYTES = _of_run("memory_bytes", "Peak memory of rank 0: of its GPU, or resident.")
FRECHET_DISTANCE = _of_run(
    "frechet_distance", "The last quality card's headline; comparable within one run only."
)
WORKERS = _of_run("workers", "Ranks of the newest worker group.")
LAST_TICK_SECONDS = _of_run(
    "last_tick_timestamp_seconds", "Unix time of the last sign of progress, or of the start."
)
SHM_USED_RATIO = _of_run(
    "shm_used_ratio", "Share of /dev/shm that is taken on the node of a rank, 0 to 1."
)
RUN_EVENTS = Metric(
    "distgen_train_events_total",
    "counter",
    "Lines of the run's events.jsonl since this driver started, by event.",
    ("run", "event"),
)
DEPARTURES = Metric(
    "distgen_train_departures_total",
    "counter",
    "Drivers that left the run in order: it was finished, or somebody stopped it.",
    ("run",),
)
WAITING_IMAGES = Metric(
    "distgen_serve_waiting_images",
    "gauge",
    "Pictures that wait in a replica or are being made: of `seeds`, or `remakes` of others.",
    ("model", "replica", "queue"),
)
WAITING_IMAGES_LIMIT = Metric(
    "distgen_serve_waiting_images_limit",
    "gauge",
    "The most that may wait in a replica; requests beyond are answered 429.",
    ("model", "replica", "queue"),
)
REQUESTS = Metric(
    "distgen_serve_requests_total",
    "counter",
    "Answered requests, by status and, where refused, the error's code.",
    ("model", "replica", "route", "status", "reason"),
)
IMAGES = Metric(
    "distgen_serve_images_total", "counter", "Pictures that were sent.", ("model", "replica")
)
STAGE_SECONDS = Metric(
    "distgen_serve_stage_seconds",
    "histogram",
    "Time of requests for pictures: queue, forward, encode, and total from first to last byte.",
    ("model", "replica", "stage"),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0),
)
BATCH_IMAGES = Metric(
    "distgen_serve_batch_images",
    "histogram",
    "Pictures in one run of the network.",
    ("model", "replica"),
    (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
)
SWAPS = Metric(
    "distgen_serve_swaps_total",
    "counter",
    "Other weights that took over (`done`), or did not and why, by outcome.",
    ("model", "replica", "outcome"),
)

METRICS = (
    IMAGES_PER_SECOND,
    IMAGES_SEEN,
    LENGTH_IMAGES,
    REMAINING_SECONDS,
    DATA_WAIT_RATIO,
    MEMORY_BYTES,
    FRECHET_DISTANCE,
    WORKERS,
    LAST_TICK_SECONDS,
    SHM_USED_RATIO,
    RUN_EVENTS,
    DEPARTURES,
    WAITING_IMAGES,
    WAITING_IMAGES_LIMIT,
    REQUESTS,
    IMAGES,
    STAGE_SECONDS,
    BATCH_IMAGES,
    SWAPS,
)


class Sink(Protocol):
    """Where values go."""

    def set(self, metric: Metric, value: float, labels: Labels) -> None:
        """A gauge has this value now."""

    def add(self, metric: Metric, labels: Labels, by: float = 1) -> None:
        """A counter goes up."""


class RayMetrics:
    """The agent of this process's Ray node."""

    def __init__(self) -> None:
        self._made: dict[Metric, Any] = {}

    def set(self, metric: Metric, value: float, labels: Labels) -> None:
        """A gauge has this value now."""
        self._instrument(metric).set(value, dict(labels))

    def add(self, metric: Metric, labels: Labels, by: float = 1) -> None:
        """A counter goes up."""
        self._instrument(metric).inc(by, dict(labels))

    def _instrument(self, metric: Metric) -> Any:
        if metric not in self._made:
            from ray.util import metrics

            kind = metrics.Gauge if metric.kind == "gauge" else metrics.Counter
            self._made[metric] = kind(metric.name, metric.help, metric.labels)
        return self._made[metric]


class RunMetrics:
    """What a run's driver tells of it.

    Args:
        run: The run's name.
        sink: Where values go.
        clock: Unix time in seconds.
    """

    def __init__(
        self, run: str, sink: Sink | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._labels = {"run": run}
        self._sink = sink or RayMetrics()
        self._clock = clock
        self._gauges: dict[Metric, float] = {LAST_TICK_SECONDS: clock()}

    @contextmanager
    def told(self) -> Iterator[RunMetrics]:
        """Inside, gauges are told every few seconds and events of this process counted."""
        ended = threading.Event()
        thread = _repeat(self.refresh, ended)
        try:
            with events_told(self.event):
                yield self
            self._sink.add(DEPARTURES, self._labels)
        except (PreemptedError, KeyboardInterrupt):
            self._sink.add(DEPARTURES, self._labels)
            raise
        finally:
            ended.set()
            thread.join()

    def tick(self, tick: Tick) -> None:
        """A sign of progress has come in."""
        new = {
            LAST_TICK_SECONDS: self._clock(),
            IMAGES_SEEN: float(tick.images_seen),
            LENGTH_IMAGES: float(tick.images),
        }
        if tick.stage == "train":
            new |= {
                IMAGES_PER_SECOND: tick.images_per_s,
                REMAINING_SECONDS: tick.eta_s,
                DATA_WAIT_RATIO: tick.data_wait,
                MEMORY_BYTES: tick.memory_gib * 2**30,
            }
        self._gauges = self._gauges | new  # the thread that refreshes looks at the old ones

    def members(self, count: int) -> None:
        """A worker group of so many ranks trains."""
        self._gauges = {**self._gauges, WORKERS: float(count)}

    def event(self, row: Mapping[str, Any]) -> None:
        """Something has happened that the run's events tell."""
        self._sink.add(RUN_EVENTS, {**self._labels, "event": str(row["event"])})
        self.recall([row])

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take from older events what still holds."""
        for row in rows:
            if row["event"] == "evaluated" and row.get("distance") is not None:
                self._gauges = {**self._gauges, FRECHET_DISTANCE: float(row["distance"])}

    def refresh(self) -> None:
        """Set all gauges."""
        for metric, value in self._gauges.items():
            self._sink.set(metric, value, self._labels)


def tell_often(
    samples: Callable[[], Iterable[Sample]],
    *,
    sink: Sink | None = None,
    ended: threading.Event | None = None,
) -> threading.Thread:
    """Pass on every few seconds all that a process has counted, from a thread of its own.

    Args:
        samples: Totals since the process began, and gauges.
        sink: Where values go.
        ended: Ends the thread; without it, the process does.
    """
    target = sink or RayMetrics()
    told: dict[tuple[str, ...], float] = {}

    def tell() -> None:
        for metric, labels, value in samples():
            if metric.kind == "gauge":
                target.set(metric, value, labels)
                continue
            key = (metric.name, *labels.values())
            if value > told.get(key, 0.0):
                target.add(metric, labels, value - told.get(key, 0.0))
                told[key] = value

    return _repeat(tell, ended or threading.Event())


def watch_shm(
    run: str,
    *,
    folder: str = "/dev/shm",  # noqa: S108 - looked at only
    sink: Sink | None = None,
    ended: threading.Event | None = None,
) -> threading.Thread | None:
    """Tell every few seconds how full this node's shared memory is; None where there is none.

    Args:
        run: The run that a rank of this process belongs to.
        folder: Where it is mounted.
        sink: Where values go.
        ended: Ends the thread; without it, the process does.
    """

    def look() -> dict[Metric, float]:
        disk = shutil.disk_usage(folder)
        return {SHM_USED_RATIO: 1.0 - disk.free / disk.total}

    if not Path(folder).is_dir():
        return None
    return _watch(look, {"run": run}, sink, ended)


def _watch(
    look: Callable[[], Mapping[Metric, float]],
    labels: Labels,
    sink: Sink | None,
    ended: threading.Event | None,
) -> threading.Thread:
    target = sink or RayMetrics()

    def tell() -> None:
        for metric, value in look().items():
            target.set(metric, value, labels)

    return _repeat(tell, ended or threading.Event())


def _repeat(work: Callable[[], None], ended: threading.Event) -> threading.Thread:
    """Do `work` every few seconds, in a thread that keeps no process alive."""

    def loop() -> None:
        while True:
            try:
                work()
            except Exception:  # what goes wrong once must not end the telling
                _log.exception("metrics could not be told; they are in a few seconds")
            if ended.wait(REFRESH_S):
                return

    thread = threading.Thread(target=loop, name="metrics", daemon=True)
    thread.start()
    return thread


@contextmanager
def events_told(tell: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Inside, whatever a run's events tell in this process is told to `tell` as well."""
    from distgen.training.run import EVENT_LOGGER

    handler, logger = _Teller(tell), logging.getLogger(EVENT_LOGGER)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Teller(logging.Handler):
    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        row: dict[str, Any] = record.__dict__["row"]
        self._tell(row)
