"""What an evaluation is asked for: whether it fits a model and its data, and all that does."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator

from distgen.core.config import Config
from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.metrics import classification, modes
from distgen.metrics.classification import ClassificationConfig
from distgen.metrics.features import EXTRACTORS, ExtractorName
from distgen.metrics.further import SECTIONS
from distgen.metrics.inception import InceptionFeatures, require
from distgen.metrics.memorisation import MemorisationConfig
from distgen.metrics.modes import ModesConfig
from distgen.models import ModelConfig


def _on_every_host(path: str) -> str:
    if not path.startswith(("/", "~")):
        raise ValueError("it has to be a path that begins with / or ~, the same on every host")
    return path


HostPath = Annotated[str, AfterValidator(_on_every_host)]


class EvaluationConfig(Config):
    """How a quality card is measured."""

    samples: int = Field(default=5_000, ge=2)
    """Generated pictures, and as many real ones; fewer where the shard set has fewer. More than
    1,280 make the covariance of EfficientNet's features regular."""
    extractors: tuple[ExtractorName, ...] = ("efficientnet-lite0", "pixel-pca64")
    """Feature spaces; the first gives the headline."""
    neighbours: PositiveInt = 5
    """k of precision, recall, density and coverage."""
    importance_samples: PositiveInt = 100
    """Posterior samples per picture for the likelihood bound of latent-variable models."""
    likelihood_images: PositiveInt = 1_000
    """Held-out pictures, or clips, for that bound; ten times as many are given one sample each, by
    which it is estimated for all of them."""
    context_frames: PositiveInt | None = None
    """Clips: first frames from which the others are predicted; by default half of them."""
    prediction_clips: PositiveInt = 256
    """Held-out clips to predict, for models that can."""
    prediction_futures: PositiveInt = 10
    """Predictions of each of these clips."""
    modes: ModesConfig | None = None
    """How many of the set's classes a model makes; on a run's last card, where it is there."""
    memorisation: MemorisationConfig | None = None
    """Whether it repeats training pictures; on a run's last card, where it is there."""
    classification: ClassificationConfig | None = None
    """What a classifier learns from its pictures; on a run's last card, where it is there."""
    inception_weights: HostPath | None = None
    """Path, on every host, of the weights for the extractor `inception-v3`, of which the usual FID
    is made; left out: $DISTGEN_INCEPTION_WEIGHTS. Needs `pip install 'distgen[fid]'`."""

    @property
    def between(self) -> EvaluationConfig:
        """The same for the cards before a run's last: without what takes minutes."""
        return self.model_copy(update=dict.fromkeys(SECTIONS))

    @field_validator("extractors")
    @classmethod
    def _each_once(cls, names: tuple[ExtractorName, ...]) -> tuple[ExtractorName, ...]:
        if not names or len(set(names)) != len(names):
            raise ValueError(f"name one or more of {', '.join(EXTRACTORS)}, each once")
        return names

    @model_validator(mode="after")
    def _measured_where_features_are(self) -> EvaluationConfig:
        space = self.memorisation.extractor if self.memorisation else None
        if space is not None and space not in self.extractors:
            raise ValueError(
                f"evaluation.memorisation.extractor {space!r} is not among evaluation.extractors; "
                f"use {' or '.join(self.extractors)}"
            )
        return self


def refuse_unfit(
    config: EvaluationConfig, model: ModelConfig, spec: ImageSpec, *, held_out: bool
) -> None:
    """Refuse what cannot be measured, before anything is.

    Args:
        config: What is asked for.
        model: The model's section of the job file.
        spec: What the shard set holds.
        held_out: Whether it has a test split in which any class is known.

    Raises:
        UsageError: A section does not fit the model or the set, or what an extractor needs is not
            installed.
    """
    if spec.frames is not None:
        context_of(config, spec.frames)
    asked = [name for name in SECTIONS if getattr(config, name) is not None]
    if spec.frames is not None and asked:
        raise UsageError(
            f"evaluation.{asked[0]} looks at pictures, and the shard set holds clips.",
            remedy=f"leave evaluation.{asked[0]} out",
        )
    if config.modes is not None:
        modes.refuse_unfit(config.modes, spec)
    if config.classification is not None:
        classification.refuse_unfit(spec, conditional=is_conditional(model), held_out=held_out)
    if InceptionFeatures.name in config.extractors:
        require(config.inception_weights)


def context_of(config: EvaluationConfig, frames: int) -> int:
    """First frames of clips of so many frames, at least two, from which the others are predicted.

    Raises:
        UsageError: No frame is left to predict.
    """
    context = config.context_frames or frames // 2
    if context >= frames:
        raise UsageError(
            f"evaluation.context_frames is {context}, and clips have {frames} frames.",
            remedy=f"at most {frames - 1}",
        )
    return context


def everything(
    config: EvaluationConfig, model: ModelConfig, spec: ImageSpec, *, held_out: bool
) -> EvaluationConfig:
    """The same with every section that fits the model and the set; those that are there stay."""
    if spec.frames is not None:
        return config
    space = MemorisationConfig().extractor
    if space not in config.extractors:
        space = config.extractors[0]
    sections = {
        "memorisation": MemorisationConfig(extractor=space),
        "modes": ModesConfig(by=modes.natural(spec)) if spec.classes else None,
        "classification": ClassificationConfig()
        if spec.classes and is_conditional(model) and held_out
        else None,
    }
    missing = {name: each for name, each in sections.items() if getattr(config, name) is None}
    return config.model_copy(update=missing)


def is_conditional(model: ModelConfig) -> bool:
    """Whether a model makes pictures by class."""
    return bool(getattr(model, "conditional", False))
