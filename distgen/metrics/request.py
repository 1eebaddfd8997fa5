"""What an evaluation is asked for: whether it fits a model and its data, and all that does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.metrics import classification, modes
from distgen.metrics.classification import ClassificationConfig
from distgen.metrics.further import SECTIONS
from distgen.metrics.inception import InceptionFeatures, require
from distgen.metrics.memorisation import MemorisationConfig
from distgen.metrics.modes import ModesConfig
from distgen.models import ModelConfig

if TYPE_CHECKING:
    from distgen.metrics.card import EvaluationConfig


def refuse_unfit(
    config: EvaluationConfig, model: ModelConfig, spec: ImageSpec, *, held_out: bool
) -> None:
    """Refuse what cannot be measured, before anything is.

    Args:
        config: What is asked for.
        model: The model's section of the job file.
        spec: What the shard set holds.
        held_out: Whether it has a test split.

    Raises:
        UsageError: A section does not fit the model or the set, or what an extractor needs is not
            installed.
    """
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
