"""The job file of `kind: tune`: a train job, what may vary in it, and how the best is found."""

from __future__ import annotations

import copy
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from distgen.core.config import Config, parse, read_job_file, set_dotted
from distgen.core.errors import UsageError, did_you_mean
from distgen.core.secrets import Place
from distgen.core.storage import Location, locate
from distgen.launch import train as launch
from distgen.metrics.scores import Scores
from distgen.objectives import ELBOConfig
from distgen.registry.layout import Name
from distgen.training.job import TrainJob

Mode = Literal["min", "max"]
DIMENSIONS = ("choice", "uniform", "loguniform", "randint")
# A trial's name and place are the search's own, and its workers are counted before it starts.
_FIXED = ("kind", "name", "storage", "scaling")
_LOWER_IS_BETTER = ("frechet_distance", "kernel_distance", "bound_nats", "bits_per_dim")


class Dimension(Config):
    """What one key may be: exactly one of these four."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """One of these values."""
    uniform: tuple[float, float] | None = None
    """A number between two, all equally likely."""
    loguniform: tuple[float, float] | None = None
    """A number between two positive ones, all orders of magnitude equally likely."""
    randint: tuple[int, int] | None = None
    """A whole number from the first to the second, both included."""

    @model_validator(mode="before")
    @classmethod
    def _one_known_kind(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            raise ValueError("write one of {choice: [...]}, {uniform: [a, b]}, ...")
        given = [key for key, value in raw.items() if value is not None]
        for key in given:
            if key not in DIMENSIONS:
                raise ValueError(f"{key!r} is unknown; {did_you_mean(str(key), DIMENSIONS)}")
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(DIMENSIONS)}")
        return raw

    @model_validator(mode="after")
    def _ordered(self) -> Dimension:
        bounds = self.uniform or self.loguniform or self.randint
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"{list(bounds)} is empty: the first number must be the smaller one")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform wants positive bounds, not {list(self.loguniform)}")
        return self

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Every choice, or both ends: a job that takes these takes what is between."""
        bounds = self.uniform or self.loguniform or self.randint
        return self.choice or bounds or ()


class SearchConfig(Config):
    """How the best values are looked for."""

    space: dict[str, Dimension] = Field(min_length=1)
    """Dotted keys of the train job, and what each may be."""
    trials: PositiveInt = 8
    """Trainings; `grid` makes as many as there are points and stops here at the latest."""
    algorithm: Literal["random", "grid", "optuna"] = "random"
    """How points are chosen; grid takes choices only, optuna (an extra) learns from results."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha (Li et al. 2018) ends the worse trials early; none trains all to the end."""
    metric: str = ""
    """A figure of the quality card, such as `frechet_distance/efficientnet-lite0`; left out, the
    headline."""
    mode: Mode | None = None
    """Whether lower or higher is better; left out, as the metric means it."""
    grace_images: PositiveInt | None = None
    """Images before asha may end a trial; left out, the first evaluation."""
    reduction: int = Field(default=3, ge=2)
    """asha keeps one in this many at each rung, and rungs are this factor apart."""
    max_concurrent: PositiveInt | None = None
    """Trials at a time; left out, as many as the cluster has room for."""
    seed: NonNegativeInt = 0
    """Seed of the points that are chosen."""


class TuneJob(Config):
    """A search: many short trainings, of which the best becomes a job file."""

    kind: Literal["tune"] = "tune"
    name: Name
    """Name of the search: a folder below `storage`."""
    storage: Place = "runs"
    """Path or URL of the folder that holds searches."""
    train: TrainJob
    """The train job that is varied, or the path of its file; its storage is the best run's."""
    search: SearchConfig
    """What may vary, and how the best is found."""

    @model_validator(mode="before")
    @classmethod
    def _load_train(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("train"), str | dict):
            return raw
        train = raw["train"]
        train = read_job_file(train) if isinstance(train, str) else train
        return {**raw, "train": {"name": f"{raw.get('name')}-best", **train}}

    @model_validator(mode="after")
    def _space_fits(self) -> TuneJob:
        for key, dimension in self.search.space.items():
            if key.partition(".")[0] in _FIXED:
                raise ValueError(f"{key} cannot be searched over: it is the same for all trials")
            for value in dimension.extremes:
                self.at({key: value})
        if self.search.algorithm == "grid":
            ranges = [key for key, d in self.search.space.items() if d.choice is None]
            if ranges:
                raise ValueError(f"a grid wants choices only, but {', '.join(ranges)} is a range")
        self._check_metric()
        return self

    def _check_metric(self) -> None:
        known = figures_of(self.train)
        if self.metric not in known:
            raise UsageError(
                f"search.metric: {self.metric!r} is not a figure of this job's quality card.",
                remedy=did_you_mean(self.metric, known),
            )
        if self.search.grace_images and self.search.grace_images > self.train.training.images:
            raise ValueError(
                f"search.grace_images {self.search.grace_images} is longer than "
                f"train.training.images {self.train.training.images}"
            )

    @property
    def location(self) -> Location:
        """The search's folder."""
        return locate(self.storage) / self.name

    @property
    def metric(self) -> str:
        """The figure that is searched for."""
        return self.search.metric or figures_of(self.train)[0]

    @property
    def mode(self) -> Mode:
        """Whether lower or higher is better."""
        lower = self.metric.partition("/")[0] in _LOWER_IS_BETTER
        return self.search.mode or ("min" if lower else "max")

    def at(self, values: dict[str, Any]) -> TrainJob:
        """The train job with these values under their dotted keys.

        Raises:
            UsageError: A key does not exist, or a value is impossible.
        """
        raw = copy.deepcopy(self.train.model_dump(mode="json"))
        for key, value in values.items():
            set_dotted(raw, key, value)
        return parse(TrainJob, raw, "search.space")


def figures_of(job: TrainJob) -> list[str]:
    """The figures that this job's quality cards will have, the headline first."""
    spaces = job.evaluation.extractors
    known = (*Scores.model_fields, "kernel_distance")
    figures = [f"{figure}/{space}" for space in spaces for figure in known]
    return figures + (["bound_nats", "bits_per_dim"] if _has_likelihood(job) else [])


def with_absolute_paths(job: TuneJob) -> TuneJob:
    """The same search, its relative paths resolved here."""
    storage = locate(job.storage).url
    train = launch.with_absolute_paths(job.train)
    space = dict(job.search.space)
    if "data.shards" in space:
        places = tuple(locate(shards).url for shards in space["data.shards"].extremes)
        space["data.shards"] = Dimension(choice=places)
    search = job.search.model_copy(update={"space": space})
    return job.model_copy(update={"storage": storage, "train": train, "search": search})


def _has_likelihood(job: TrainJob) -> bool:
    return job.model.family in ELBOConfig.families
