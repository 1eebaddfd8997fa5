"""The job file of `kind: train`: what is trained, on what, for how long, and how wide."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distgen.core.config import Config
from distgen.core.schedule import (
    DecayRate,
    Schedule,
    ScheduledDecayRate,
    ScheduledImages,
    ScheduledPositive,
)
from distgen.core.secrets import Place
from distgen.core.storage import Location, locate
from distgen.data import DataConfig
from distgen.metrics.request import EvaluationConfig
from distgen.models import FAMILIES, ModelConfig
from distgen.objectives import ObjectiveConfig, default_objective
from distgen.objectives.elbo import ELBOConfig
from distgen.registry.layout import Name
from distgen.training.compiling import Compile
from distgen.training.scaling import ScalingConfig
from distgen.training.signals import HealthConfig
from distgen.training.stopping import EarlyStopConfig


class TrainingConfig(Config):
    """How long and how fast: every length is in images seen, the only clock."""

    images: PositiveInt
    """Length of the run, in images seen."""
    batch_size: PositiveInt = 128
    """Images per step over all ranks."""
    accumulate: PositiveInt = 1
    """Parts into which a rank's share of a step is divided, one after the other, to save memory."""
    learning_rate: ScheduledPositive = 2e-4
    """Adam's step size after warm-up: a number, or how it moves from one to another."""
    betas: tuple[DecayRate, ScheduledDecayRate] = (0.0, 0.99)
    """Adam's decay rates of the gradient's first and second moments; the second may move."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay (AdamW)."""
    max_gradient_norm: PositiveFloat | None = None
    """Gradients that are longer than this, those of all weights of a phase together, are shortened
    to it (Pascanu et al. 2013), and their length is drawn as a curve; by default neither."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after warm-up: stay, or fall to zero along a half cosine."""
    warmup_images: NonNegativeInt = 0
    """Images over which the learning rate rises linearly from zero."""
    ema_half_life: ScheduledImages = 10_000
    """Images after which a weight's share in the served average has halved."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Forward precision; auto is bf16 on CUDA and fp32 on CPU. Penalties are fp32 always."""
    compile: Compile = "auto"
    """Whether networks that are differentiated once run compiled (torch.compile); auto: on CUDA,
    but for those of clips, which take minutes to compile."""
    seed: NonNegativeInt = 0
    """Seed of initial weights, data order and noise."""
    checkpoint_every: PositiveInt = 50_000
    """Images between checkpoints: the most that a fault can cost, beside those that are trained
    while a checkpoint is being written."""
    evaluate_every: PositiveInt = 100_000
    """Images between quality cards; there is always one at the end."""
    log_every: PositiveInt | None = None
    """Images between two points of the curves; by default 1/200 of the run."""
    keep: PositiveInt = 2
    """Newest checkpoints kept. Others are deleted, but for the best by the card's headline and two
    that a run which goes wrong can return to."""
    early_stop: EarlyStopConfig | None = None
    """When to end before `images`, by the quality card; by default never."""
    bundle: Literal["last", "best"] = "last"
    """Whose averaged weights are bundled: the last ones, or those with the best headline."""

    @property
    def tick_every(self) -> int:
        """Images between two points of the curves, resolved."""
        return self.log_every or max(self.batch_size, self.images // 200)

    @model_validator(mode="after")
    def _learning_rate_moves_once(self) -> TrainingConfig:
        if isinstance(self.learning_rate, Schedule) and self.schedule != "constant":
            raise ValueError(
                f"learning_rate moves by itself, and schedule {self.schedule!r} would move it "
                "again; leave one of them out"
            )
        return self


class TrainJob(Config):
    """One training run; the same file trains on a laptop and on a cluster."""

    kind: Literal["train"] = "train"
    name: Name
    """Name of the run: a folder below `storage`. The same name and storage resumes."""
    storage: Place = "runs"
    """Path or URL of the folder that holds runs."""
    data: DataConfig
    """What is read, and in which order."""
    model: ModelConfig
    """Family and size of the networks."""
    objective: ObjectiveConfig
    """What is optimised; left out, the family's own."""
    training: TrainingConfig
    """Length, optimiser and intervals."""
    scaling: ScalingConfig = ScalingConfig()
    """Workers and what each gets."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How the quality card is measured."""
    health: HealthConfig = HealthConfig()
    """When a run counts as ill, and what is done for it."""

    @model_validator(mode="before")
    @classmethod
    def _objective_of_the_family(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "objective" in raw:
            return raw
        model = raw.get("model")
        family = str(model.get("family")) if isinstance(model, dict) else ""
        # Where there is no such family, that is what is wrong, and not what would follow from it.
        return {**raw, "objective": (default_objective(family) or ELBOConfig()).model_dump()}

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainJob:
        if self.model.family not in self.objective.families:
            families = ", ".join(self.objective.families)
            raise ValueError(
                f"objective.kind {self.objective.kind!r} trains {families}, "
                f"not model.family {self.model.family!r}"
            )
        parts, together = (
            self.training.accumulate,
            FAMILIES[self.model.family].rows_together(self.model),
        )
        batch, unit = self.training.batch_size, self.scaling.most * parts * together
        if not self.sizes:
            workers = self.scaling.workers
            below, above = batch // unit * unit, -(-batch // unit) * unit
            near = " or ".join(str(size) for size in (below, above) if size)
            times = f" times training.accumulate {parts}" if parts > 1 else ""
            times += f" times groups of {together} that the model compares" if together > 1 else ""
            raise ValueError(
                f"training.batch_size {batch} does not divide by scaling.workers {workers}{times}, "
                f"and unequal ranks would weigh pictures unequally; use {near}"
            )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of ranks that `scaling.workers` allows and that divide a batch, rising."""
        scaling = self.scaling
        rows = FAMILIES[self.model.family].rows_together(self.model) * self.training.accumulate
        return tuple(
            size
            for size in range(scaling.fewest, scaling.most + 1)
            if self.training.batch_size % (size * rows) == 0
        )

    def with_workers(self, workers: int) -> TrainJob:
        """The same job on a fixed number of workers."""
        scaling = self.scaling.model_copy(update={"workers": workers})
        return self.model_copy(update={"scaling": scaling})

    @property
    def location(self) -> Location:
        """The run's folder."""
        return locate(self.storage) / self.name
