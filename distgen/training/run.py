"""A run's folder: what is in it, who may go on with it, and the story it tells."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO

import torch

from distgen.core.config import Config, dump_yaml, flatten, parse, parse_yaml
from distgen.core.errors import UsageError
from distgen.core.storage import Location
from distgen.core.stores import outlast_full_disk
from distgen.data import has_split, open_shard_set
from distgen.data.config import open_data
from distgen.data.streaming.bad import BadSample
from distgen.data.streaming.mixed import Pictures
from distgen.metrics.reals import any_labelled, choose_yardstick
from distgen.metrics.request import refuse_unfit
from distgen.models import sketch_networks
from distgen.training.job import TrainJob
from distgen.training.stopping import EarlyStopConfig

# What may change between two starts of one run: it moves no weight that has been trained already.
CHANGEABLE = (
    "storage",
    "data.mix",
    "data.shards",  # the shard set's fingerprint is what must stay
    "data.decode_threads",
    "data.prefetch_batches",
    "data.cache",  # and its limits
    "data.on_error",
    "data.bad_budget",
    "training.accumulate",
    "training.compile",
    "training.images",
    "training.checkpoint_every",
    "training.evaluate_every",
    "training.log_every",
    "training.keep",
    "training.early_stop",
    "training.bundle",
    "health.",
    "scaling.",
    "evaluation.",
)
EVENT_LOGGER = "distgen.events"
"""Logger that hears of each event in the process where it happens; a record has it as `row`."""

_PROCESS = uuid.uuid4().hex[:12]
"""Name of this process among all that ever write into a run's folder."""
_event_log = logging.getLogger(EVENT_LOGGER)
_PACKAGES = ("distgen", "torch", "ray", "webdataset", "pyarrow", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Tick:
    """One point of a run's curves, and what its progress display shows."""

    stage: str
    """What the run is doing: `train`, `evaluate`, `done` or `stopped early`."""
    images_seen: int
    images: int
    """Length of the run."""
    images_per_s: float = 0.0
    """Over all ranks, since the last tick."""
    eta_s: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    """Means since the last tick, as `<phase>/<term>`."""
    data_wait: float = 0.0
    """Share of the time in which the slowest rank waited for pictures."""
    memory_gib: float = 0.0
    """Peak memory of rank 0: of its GPU where it has one, else resident."""
    headline: str = ""
    """The last quality card's headline figure, such as `FD 21.3`."""
    detail: str = ""
    """Progress inside a stage, such as `features 3,000/10,000`."""


class Finish(Config):
    """`finish.json`: how a run came to its end, written after its bundle."""

    images: int
    """Length that the job wanted."""
    images_seen: int
    """Where the run ended."""
    early_stop: EarlyStopConfig | None = None
    """What ended it before its length, if anything did."""


class RunFolder:
    """`<storage>/<name>`: every path in it, and its append-only logs."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.job_file = location / "job.yaml"
        self.checkpoints = location / "checkpoints"
        self.samples = location / "samples"
        self.tensorboard = location / "tensorboard"
        self.bundle = location / "bundle"
        self.card = location / "card.json"
        self.report = location / "report.html"
        self.finish = location / "finish.json"
        self._bad_samples = _JsonLines(location / "bad_samples.jsonl")
        self._metrics = _JsonLines(location / "metrics.jsonl")
        self._events = _SharedJsonLines(location / "events.jsonl")

    def job(self) -> TrainJob:
        """The resolved job that this run was started with.

        Raises:
            UsageError: There is no run here, or its job file has been damaged.
        """
        if not self.job_file.is_file():
            raise UsageError(
                "This is not a run: it has no job.yaml.",
                where=str(self.location),
                remedy="distgen runs ls",
            )
        text = self.job_file.read_text()
        return parse(TrainJob, parse_yaml(text, str(self.job_file)), str(self.job_file))

    def is_finished(self, images: int, early_stop: EarlyStopConfig | None = None) -> bool:
        """Whether the run has reached `images`, or its early end, and left a whole bundle."""
        if not (self.bundle / "manifest.json").is_file():
            return False
        end = self.end()
        if end.images_seen >= images:
            return True
        return early_stop is not None and early_stop == end.early_stop and end.images >= images

    def card_at(self, images_seen: int) -> Location:
        """The quality card of this clock."""
        return self.location / "cards" / f"{images_seen:012d}.json"

    def end(self) -> Finish:
        """How the run ended; it must have a bundle."""
        if self.finish.is_file():
            return Finish.model_validate(self.finish.read_json())
        # Runs had no such file before they could end early.
        seen = int((self.bundle / "config.json").read_json()["images_seen"])
        return Finish(images=seen, images_seen=seen)

    def event(self, kind: str, images_seen: int, **facts: Any) -> None:
        """Add a line to `events.jsonl`: what happened, when, and at which point of the run."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"time": now, "event": kind, "images_seen": images_seen, **facts}
        self._events.append(row)
        _event_log.info("%s at %s images", kind, f"{images_seen:,}", extra={"row": row})

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first."""
        return self._events.read()

    def gather_events(self) -> None:
        """Put all events into `events.jsonl`; called while no process of the run writes any."""
        self._events.gather()

    def log(self, tick: Tick) -> None:
        """Add a point to `metrics.jsonl`."""
        self._metrics.append({"time": round(time.time(), 3), **asdict(tick)})

    def log_card(self, images_seen: int, figures: dict[str, float], **facts: Any) -> None:
        """Add a quality card's figures to `metrics.jsonl`."""
        row = {"stage": "card", "images_seen": images_seen, "card": figures, **facts}
        self._metrics.append({"time": round(time.time(), 3), **row})

    def log_health(self, images_seen: int, figures: dict[str, float]) -> None:
        """Add a look at the run's health to `metrics.jsonl`."""
        row = {"stage": "health", "images_seen": images_seen, "health": figures}
        self._metrics.append({"time": round(time.time(), 3), **row})

    def metrics(self) -> list[dict[str, Any]]:
        """All points of the curves, oldest first."""
        return self._metrics.read()

    def log_bad_sample(self, bad: BadSample) -> None:
        """Add a line to `bad_samples.jsonl`."""
        self._bad_samples.append(asdict(bad))

    def bad_samples(self) -> list[BadSample]:
        """The damaged samples that were met so far, in the order in which they were noted."""
        return [BadSample(**row) for row in self._bad_samples.read()]

    def rewind(self, images_seen: int) -> int:
        """Forget points beyond a restored checkpoint, for they will be drawn again.

        Returns:
            How far the run had come before, by those points.
        """
        rows = self._metrics.read()
        kept = [row for row in rows if row["images_seen"] <= images_seen]
        if len(kept) < len(rows):
            self._metrics.rewrite(kept)
        return max((int(row["images_seen"]) for row in rows), default=0)


class _JsonLines:
    """A log of JSON objects: appended on a disk, rewritten whole in an object store."""

    def __init__(self, location: Location) -> None:
        self._location = location

    def append(self, row: dict[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False)
        if self._location.local is None:
            self.rewrite([*self.read(), row])
            return
        local = self._location.local

        def write() -> None:
            local.parent.mkdir(parents=True, exist_ok=True)
            with local.open("ab+") as file:
                # A process that was killed, or a disk that was full, may have left half a line.
                if file.tell() and not _ends_line(file):
                    file.write(b"\n")
                file.write(line.encode() + b"\n")

        outlast_full_disk(write)

    def read(self) -> list[dict[str, Any]]:
        try:
            text = self._location.read_text()
        except FileNotFoundError:
            return []
        rows = []
        for line in text.splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # half a line, see append
                continue
        return rows

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._location.write_text(text)


class _SharedJsonLines:
    """A log of JSON objects with a `time` that several processes write at once: driver and ranks.

    On a disk they append to one file. In an object store, where a file can only be replaced, each
    would undo what another has just written: there each has a file of its own beside it.
    """

    def __init__(self, location: Location) -> None:
        self._whole = _JsonLines(location)
        self._beside = location.parent / location.name.removesuffix(".jsonl")
        shared = location.local is not None
        self._own = self._whole if shared else _JsonLines(self._beside / f"{_PROCESS}.jsonl")

    def append(self, row: dict[str, Any]) -> None:
        self._own.append(row)

    def read(self) -> list[dict[str, Any]]:
        if self._own is self._whole:
            return self._whole.read()
        told = Counter(
            json.dumps(row) for each in self._beside.list() for row in _JsonLines(each).read()
        )
        # After the others: what is gathered meanwhile is here before it is gone there.
        gathered = Counter(map(json.dumps, self._whole.read()))
        # Whoever was killed while they were gathered has left some twice, in both places; processes
        # that tell the same in the same millisecond have each told it.
        rows = map(json.loads, (gathered | told).elements())
        return sorted(rows, key=lambda row: str(row["time"]))

    def gather(self) -> None:
        """Move the lines of processes that have ended into the one file."""
        if self._own is not self._whole and self._beside.is_dir():
            self._whole.rewrite(self.read())
            self._beside.remove()


def _ends_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def open_pictures(job: TrainJob) -> Pictures:
    """The pictures that `job` trains on, which its model has been found able to make.

    Raises:
        UsageError: There is no such shard set, its pictures do not fit the model, or the model
            cannot be evaluated as asked for, or there are too few pictures for it.
    """
    pictures = open_data(job.data)
    sketch_networks(job.model, pictures.spec)
    shards = job.data.shards
    measured = open_shard_set(shards, "train")
    held_out = open_shard_set(shards, "test") if has_split(shards, "test") else None
    refuse_unfit(job.evaluation, job.model, measured.spec, held_out=any_labelled(held_out))
    choose_yardstick(measured, held_out, job.evaluation.samples)
    return pictures


def prepare(job: TrainJob, fingerprint: str, *, fresh: bool = False) -> RunFolder:
    """The folder for `job`: made, or found fit to be resumed by it.

    Args:
        job: What is to be trained.
        fingerprint: The shard set's, which must not change under a run.
        fresh: Move an existing run of this name aside and start from nothing.

    Raises:
        UsageError: A run of this name exists and differs in something that cannot change.
    """
    run = RunFolder(job.location)
    if run.job_file.is_file() and fresh:
        _move_aside(run.location)
        run = RunFolder(job.location)
    refuse_if_different(run, job, fingerprint)
    run.location.make_dir()
    run.gather_events()
    run.job_file.write_text(dump_yaml(job))
    (run.location / "env.json").write_json({**environment(), "shards": fingerprint})
    return run


def environment() -> dict[str, Any]:
    """Versions and devices of this process, for `env.json`."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def difference(old: TrainJob, new: TrainJob) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ and may not, each with both values."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    keys = sorted(before.keys() | after.keys())
    return {
        key: (before.get(key), after.get(key))
        for key in keys
        if before.get(key) != after.get(key) and not key.startswith(CHANGEABLE)
    }


def refuse_if_different(run: RunFolder, job: TrainJob, fingerprint: str) -> None:
    """Refuse to resume a run with another job, or on other pictures; a new run is none of these.

    Raises:
        UsageError: It was started differently.
    """
    if not run.job_file.is_file():
        return
    changes = difference(run.job(), job)
    environment_file = run.location / "env.json"
    trained_on = environment_file.read_json()["shards"] if environment_file.is_file() else None
    if trained_on not in (None, fingerprint):
        changes["data.shards (contents)"] = (trained_on[:12], fingerprint[:12])
    if not changes:
        return
    lines = [f"{key}: {old!r} in the run, {new!r} now" for key, (old, new) in changes.items()]
    raise UsageError(
        f"Run {job.name!r} exists and was started differently:\n    " + "\n    ".join(lines),
        where=str(run.location),
        cause="resuming would mix two trainings",
        remedy="give the run another name (name=...), or start it anew with --fresh "
        "(the old one is moved aside)",
    )


def _move_aside(location: Location) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    aside = location.parent / f"{location.name}.before-{stamp}"
    location.move_to(aside)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
