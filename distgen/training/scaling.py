"""The `scaling` section of a job file: how wide a run is. Read without torch, by those who wait."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    Discriminator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
)

from distgen.core.config import Config


def _rising(workers: tuple[int, int]) -> tuple[int, int]:
    if workers[0] > workers[1]:
        raise ValueError(f"{workers[0]} to {workers[1]} workers: the smaller number comes first")
    return workers


def _form(workers: object) -> str:
    return "range" if isinstance(workers, list | tuple) else "number"


WorkerRange = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_rising)]
# Told apart by their form, so that what is wrong with one is not also said of the other.
Workers = Annotated[
    Annotated[NonNegativeInt, Tag("number")] | Annotated[WorkerRange, Tag("range")],
    Discriminator(_form),
]


class ScalingConfig(Config):
    """How wide a run is. The pictures, their order and the noise do not depend on it."""

    workers: Workers = 0
    """Ray Train workers, one rank each; 0 trains in this process without Ray. `[1, 4]`: as many as
    there is room for, from 1 to 4, fewer when a node is lost and more when one comes."""
    cpus_per_worker: PositiveFloat = 1
    """CPU cores that Ray reserves for a worker, and its torch threads."""
    gpus_per_worker: NonNegativeFloat = 0
    """GPUs that Ray reserves for a worker."""
    max_failures: NonNegativeInt = 3
    """Restarts after faults, with no new checkpoint between them, before the run is given up."""
    patience_s: PositiveFloat = 600.0
    """Seconds without news from the workers after which they are looked into, ended and restarted;
    healthy ones are heard every few seconds. Longer than the longest step."""

    @property
    def most(self) -> int:
        """The largest number of ranks, at least 1."""
        return max(1, self.workers if isinstance(self.workers, int) else self.workers[1])

    @property
    def fewest(self) -> int:
        """The smallest number of ranks, at least 1."""
        return self.most if isinstance(self.workers, int) else self.workers[0]

    @property
    def per_worker(self) -> dict[str, float]:
        """What Ray reserves for each worker."""
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}

    @property
    def is_elastic(self) -> bool:
        """Whether the number of ranks follows the cluster."""
        return not isinstance(self.workers, int)
