"""Objectives: one file per kind of training, one line each in the table."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distgen.core.errors import UsageError
from distgen.objectives.adversarial import (
    Adversarial,
    HingeConfig,
    NonSaturatingConfig,
    RelativisticConfig,
    WassersteinConfig,
)
from distgen.objectives.base import Noise, Objective, Phase, TrainBatch
from distgen.objectives.clip_elbo import ClipELBO, ClipELBOConfig
from distgen.objectives.elbo import ELBO, ELBOConfig

AnyObjective = (
    RelativisticConfig
    | NonSaturatingConfig
    | HingeConfig
    | WassersteinConfig
    | ELBOConfig
    | ClipELBOConfig
)

ObjectiveConfig = Annotated[AnyObjective, Field(discriminator="kind")]

KINDS: dict[str, type[AnyObjective]] = {
    "relativistic": RelativisticConfig,
    "non-saturating": NonSaturatingConfig,
    "hinge": HingeConfig,
    "wgan-gp": WassersteinConfig,
    "elbo": ELBOConfig,
    "clip-elbo": ClipELBOConfig,
}
"""Every kind; the first that fits a family is the family's default."""


def default_objective(family: str) -> AnyObjective | None:
    """What a family trains on where the job file does not say; None for an unknown family."""
    return next((kind() for kind in KINDS.values() if family in kind.families), None)


def build_objective(
    config: AnyObjective, family: str, latent_dim: int, latent_groups: tuple[int, ...] = ()
) -> Objective:
    """The objective of a job.

    Args:
        config: The job's objective.
        family: The family of the networks that it trains.
        latent_dim: Standard normal numbers that one picture of theirs takes.
        latent_groups: How these are divided, where a latent-variable model says so.

    Raises:
        UsageError: This kind of objective does not train this family.
    """
    if family not in config.families:
        fitting = [name for name, kind in KINDS.items() if family in kind.families]
        raise UsageError(
            f"The objective {config.kind!r} does not train the family {family!r}.",
            where="objective.kind",
            cause=f"{config.kind!r} is for: {', '.join(config.families)}",
            remedy=f"choose one of: {', '.join(fitting)}",
        )
    if isinstance(config, ELBOConfig):
        return ELBO(config, latent_dim, latent_groups)
    if isinstance(config, ClipELBOConfig):
        return ClipELBO(config, latent_dim)
    return Adversarial(config, latent_dim)


__all__ = [
    "KINDS",
    "ClipELBOConfig",
    "ELBOConfig",
    "HingeConfig",
    "Noise",
    "NonSaturatingConfig",
    "Objective",
    "ObjectiveConfig",
    "Phase",
    "RelativisticConfig",
    "TrainBatch",
    "WassersteinConfig",
    "build_objective",
    "default_objective",
]
