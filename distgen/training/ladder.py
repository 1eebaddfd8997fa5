"""The ladder of a run that goes wrong: skip a step, warn, roll back to gentler settings, give up.

A roll-back is a restart: its line in `rollbacks.json` makes every checkpoint after its place
count as never written, and the run then starts as it would after a fault. So a run that is killed
at any point of the ladder goes on as if it had not been.

A rolled-back run sees the same pictures again, for their order is a function of the clock; a batch
that is not finite is skipped each time it comes. Its noise is new: the number of roll-backs is
mixed into the seed. And its settings are gentler (`Settings`), for the rest of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from distgen.core.config import Config
from distgen.core.errors import TrainingError
from distgen.core.schedule import Schedule
from distgen.core.seeding import derive
from distgen.core.storage import Location
from distgen.training.checkpoint import Manifest
from distgen.training.signals import Finding, HealthConfig, meaning

Action = Literal["go on", "warn", "roll back", "give up"]

PENALTIES = ("r1", "r2", "gradient_penalty")
"""Keys of objectives that weigh gradient penalties."""

AnyConfig = TypeVar("AnyConfig", bound=Config)


@dataclass(frozen=True)
class Verdict:
    """What one look at a run leads to."""

    action: Action
    findings: tuple[Finding, ...]
    """Everything beyond its threshold, for however long."""
    cause: Finding | None = None
    """What made the run roll back or give up."""
    blamed_on_data: bool = False
    """Whether pictures are bad because those that are trained on are one-sided."""

    @property
    def healthy(self) -> bool:
        """Whether the state may be returned to: nothing grave is to be seen, not even for once."""
        return not any(finding.grave for finding in self.findings)


_ALWAYS_GRAVE = ("steps not finite", "weights not finite")


def decide(
    findings: Sequence[Finding], rollbacks: int, config: HealthConfig, *, one_sided: bool
) -> Verdict:
    """The rung for what was found.

    Args:
        findings: Everything beyond its threshold.
        rollbacks: How often the run was rolled back before.
        config: How often it may be.
        one_sided: Whether pictures of late were of one class. They come again after a roll-back,
            which therefore cannot help; what they do to the model passes with them.
    """
    raised = [finding for finding in findings if finding.raised]
    grave = [finding for finding in raised if finding.grave]
    if one_sided:
        grave = [finding for finding in grave if finding.signal in _ALWAYS_GRAVE]
    found = tuple(findings)
    if grave:
        action: Action = "roll back" if rollbacks < config.max_rollbacks else "give up"
        return Verdict(action, found, grave[0])
    return Verdict("warn" if raised else "go on", found, blamed_on_data=one_sided)


class RollBack(BaseModel):
    """One return to a healthy checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: int
    """The clock when trouble was found."""
    to: int
    """The clock of the checkpoint; 0 is the beginning."""
    signal: str
    value: float
    threshold: float


class Journal:
    """The roll-backs of a run, kept beside its checkpoints and not in them."""

    def __init__(self, folder: Location) -> None:
        self._file = folder / "rollbacks.json"

    def read(self) -> tuple[RollBack, ...]:
        """All roll-backs, oldest first."""
        if not self._file.is_file():
            return ()
        return tuple(RollBack.model_validate(row) for row in self._file.read_json())

    def add(self, rollback: RollBack) -> None:
        """Note one more; from then on it has happened."""
        self._file.write_json([row.model_dump() for row in (*self.read(), rollback)])


def still_counts(manifest: Manifest, rollbacks: Sequence[RollBack]) -> bool:
    """Whether no roll-back since a checkpoint was written went to a place before it."""
    later = rollbacks[manifest.rollbacks :]
    return all(manifest.images_seen <= rollback.to for rollback in later)


def choose_target(manifests: Sequence[Manifest], rollbacks: Sequence[RollBack], onset: int) -> int:
    """The clock to return to: of the newest healthy checkpoint from before trouble began.

    A second return without a healthy checkpoint in between goes one further back, for the first
    one may have been ill already.

    Args:
        manifests: The checkpoints that count.
        rollbacks: Earlier returns.
        onset: The clock at which the run was last seen healthy.
    """
    places = [m.images_seen for m in manifests if m.healthy and m.images_seen <= onset]
    made_since = [m for m in manifests if m.healthy and m.rollbacks == len(rollbacks)]
    if rollbacks and not made_since:
        places = [place for place in places if place < rollbacks[-1].to]
    return max(places, default=0)


@dataclass(frozen=True)
class Settings:
    """How much gentler than its job a run is trained."""

    rollbacks: int
    learning_rate_factor: float
    penalty_factor: float
    penalty_floor: float

    @classmethod
    def after(cls, rollbacks: int, config: HealthConfig) -> Settings:
        """The settings after so many roll-backs; after none, those of the job."""
        return cls(
            rollbacks,
            config.learning_rate_factor**rollbacks,
            config.penalty_factor**rollbacks,
            config.penalty_floor if rollbacks else 0.0,
        )

    def objective(self, config: AnyConfig) -> AnyConfig:
        """The objective with its gradient penalties raised."""
        raised = {
            name: self._raised(getattr(config, name))
            for name in PENALTIES
            if self.rollbacks and hasattr(config, name)
        }
        return config.model_copy(update=raised)

    def _raised(self, weight: float | Schedule[float]) -> float | Schedule[float]:
        if isinstance(weight, Schedule):
            start, end = self._raised(weight.start), self._raised(weight.end)
            return weight.model_copy(update={"start": start, "end": end})
        return max(weight * self.penalty_factor, self.penalty_floor)

    def noise_seed(self, seed: int) -> int:
        """The seed of latents and other noise: after a roll-back the dice are thrown anew."""
        return derive(seed, "roll-back", self.rollbacks) if self.rollbacks else seed

    def facts(self) -> dict[str, float]:
        """For events and checkpoints."""
        return asdict(self)


def penalised(objective: Config) -> bool:
    """Whether an objective weighs a gradient penalty, or knows of none."""
    weights = [getattr(objective, name) for name in PENALTIES if hasattr(objective, name)]
    ends = [weight.end if isinstance(weight, Schedule) else weight for weight in weights]
    return not ends or any(end > 0 for end in ends)


def diverged(run: str, losses: Sequence[str], images_seen: int) -> TrainingError:
    """The error of an unwatched run whose losses are not finite."""
    return TrainingError(
        f"{', '.join(losses)} is not finite at {images_seen:,} images.",
        where=run,
        cause="the run diverged, most often by a learning rate that is too high",
        remedy="lower training.learning_rate and start with --fresh; "
        "the last checkpoint is from before",
    )


def gave_up(
    run: str, images_seen: int, cause: Finding, rollbacks: Sequence[RollBack]
) -> TrainingError:
    """The error of a run that three gentler beginnings did not cure."""
    what, remedy = meaning(cause.signal)
    story = "; ".join(f"{r.signal} at {r.at:,}, back to {r.to:,}" for r in rollbacks)
    return TrainingError(
        f"The run is given up at {images_seen:,} images: {what}.",
        where=run,
        cause=f"{cause.signal} is {cause.value:.4g}, threshold {cause.threshold:.4g}, "
        + (f"after roll-backs to gentler settings ({story})" if story else "and none is allowed"),
        remedy=f"{remedy} and start with --fresh; the last healthy checkpoint is kept, and "
        "health.max_rollbacks=N lets the run try further",
    )
