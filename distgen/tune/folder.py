"""A search's folder: its job, its trials' runs, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from distgen.core.config import dump_yaml, flatten, parse, parse_yaml
from distgen.core.errors import UsageError
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder
from distgen.tune.job import TuneJob
from distgen.tune.space import Point, points
from distgen.tune.trial import CLOCK, cards

# What may change between two starts of one search: no trial's training is another one by it.
CHANGEABLE = (
    "storage",
    "search.trials",
    "search.max_concurrent",
    "train.data.shards",
    "train.storage",
    "train.name",
    "train.scaling.",
)


@dataclass(frozen=True)
class Trial:
    """A trial as its run's folder shows it."""

    number: int
    point: Point
    run: str
    """Path or URL of its run."""
    status: str
    """`waiting`, `running`, `finished`, `stopped` (by asha, or with the search) or `failed`."""
    images_seen: int
    value: float | None
    """The best of the searched figure over its cards."""
    figures: dict[str, float]
    """The card in which that was reached."""
    cause: str = ""
    """Why it failed."""


class SearchFolder:
    """`<storage>/<name>` of a search."""

    def __init__(self, job: TuneJob) -> None:
        self.job = job
        self.location = job.location
        self.job_file = self.location / "tune.yaml"
        self.notes = self.location / "notes"
        self.best = self.location / "best.yaml"
        self.table = self.location / "trials.parquet"
        self.report = self.location / "report.html"

    @property
    def is_finished(self) -> bool:
        """Whether the search has been concluded with all its trials."""
        search = self.job.search
        wanted = search.trials if search.algorithm == "optuna" else len(points(search))
        return self.best.is_file() and len(self.known_points()) >= wanted

    def prepare(self, *, resume: bool) -> None:
        """Make the folder, or find it fit to be gone on with.

        Raises:
            UsageError: A search of this name exists and `resume` was not said, or it differs.
        """
        if self.job_file.is_file():
            self._refuse_if_different()
            if not resume and not self.is_finished:
                raise UsageError(
                    f"The search {self.job.name!r} has been started before and is not finished.",
                    where=str(self.location),
                    remedy="go on with it by --resume, or give it another name (name=...)",
                )
        self.location.make_dir()
        self.job_file.write_text(dump_yaml(self.job))

    def trial_job(self, number: int, point: Point) -> TrainJob:
        """The training of one trial: a run below `trials`, on Ray."""
        job = self.job.at(point)
        scaling = job.scaling.model_copy(update={"workers": job.scaling.most})
        return job.model_copy(
            update={
                "name": name_of(number),
                "storage": (self.location / "trials").url,
                "scaling": scaling,
            }
        )

    def note(self, number: int, point: Point, status: str, cause: str = "") -> None:
        """Write down how a trial stands."""
        entry = {"values": point, "status": status, "cause": cause}
        (self.notes / f"{number:04d}.json").write_json(entry)

    def known_points(self) -> list[Point]:
        """The points of all trials so far, in the order of their numbers."""
        return [entry["values"] for entry in self._entries()]

    def trials(self) -> list[Trial]:
        """All trials so far, as their notes and their runs' folders show them."""
        return [self._trial(number, **entry) for number, entry in enumerate(self._entries())]

    def _entries(self) -> list[dict[str, Any]]:
        return [file.read_json() for file in self.notes.list() if file.name.endswith(".json")]

    def _trial(self, number: int, values: Point, status: str, cause: str) -> Trial:
        run = RunFolder(self.location / "trials" / name_of(number))
        rows = run.metrics()
        found = [card for card in cards(rows) if self.job.metric in card]
        pick = min if self.job.mode == "min" else max
        best = pick(found, key=lambda card: card[self.job.metric]) if found else {}
        return Trial(
            number=number,
            point=values,
            run=str(run.location),
            status=status,
            images_seen=max((int(row[CLOCK]) for row in rows), default=0),
            value=best.get(self.job.metric),
            figures={name: value for name, value in best.items() if name != CLOCK},
            cause=cause,
        )

    def _refuse_if_different(self) -> None:
        text = self.job_file.read_text()
        old = parse(TuneJob, parse_yaml(text, str(self.job_file)), str(self.job_file))
        before, after = (flatten(job.model_dump(mode="json")) for job in (old, self.job))
        changed = [
            f"{key}: {before.get(key)!r} in the search, {after.get(key)!r} now"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key) and not key.startswith(CHANGEABLE)
        ]
        if changed:
            raise UsageError(
                f"The search {self.job.name!r} exists and was started differently:\n    "
                + "\n    ".join(changed),
                where=str(self.location),
                remedy="give the search another name (name=...)",
            )


def rank(trials: list[Trial], mode: str) -> list[Trial]:
    """Trials with a finite figure, the best first; the earlier one where two are equal."""
    measured = [trial for trial in trials if trial.value is not None and isfinite(trial.value)]
    sign = 1 if mode == "min" else -1
    return sorted(measured, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def name_of(number: int) -> str:
    """The name of a trial's run."""
    return f"trial-{number:04d}"


def as_row(trial: Trial) -> dict[str, Any]:
    """A trial as a row of `trials.parquet`: its values, then its figures."""
    return {
        "trial": trial.number,
        "status": trial.status,
        "images_seen": trial.images_seen,
        "value": trial.value,
        **trial.point,
        **trial.figures,
        "run": trial.run,
        "cause": trial.cause,
    }
