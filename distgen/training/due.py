"""What is due after a step: a function of the clock alone, so that a restart changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from distgen.training.job import TrainingConfig
from distgen.training.signals import HealthConfig

_STEPS = 16
"""Steps between two looks, at least: one takes up to the time of a step."""


@dataclass(frozen=True)
class Due:
    """What happens between two steps."""

    done: bool
    """The run has its length."""
    checkpoint: bool
    evaluation: bool
    point: bool
    """A point of the curves."""
    look: bool
    """A look at the run's health: always where weights are kept or measured, too."""

    @classmethod
    def after(cls, before: int, seen: int, config: TrainingConfig, health: HealthConfig) -> Due:
        """What is due after a step that took the clock from `before` to `seen`."""
        done = seen >= config.images
        checkpoint = done or crossed(before, seen, config.checkpoint_every)
        evaluation = crossed(before, seen, config.evaluate_every) and not done
        kept = checkpoint or evaluation
        return cls(
            done=done,
            checkpoint=checkpoint,
            evaluation=evaluation,
            point=kept or crossed(before, seen, config.tick_every),
            look=health.enabled and (kept or crossed(before, seen, look_every(config, health))),
        )


def look_every(config: TrainingConfig, health: HealthConfig) -> int:
    """Images between two looks at a run's health."""
    return health.every or max(config.tick_every, _STEPS * config.batch_size)


def crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in `(before, after]`."""
    return after // every > before // every
