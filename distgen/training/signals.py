"""Signs that a run goes wrong, found in plain numbers.

Every threshold is far outside of what healthy runs of any family show: an alarm that is not one
costs more trust than a fault that is noticed a little later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from distgen.core.config import Config

WINDOW = 48
"""Values of a series that are remembered."""
_ENOUGH = 8
"""Values from which a series has a usual level."""
_LEARNING_IMAGES = 10_000
"""Images that every model may take to learn anything."""
_CARDS = 2
"""Quality cards in a row that are not chance."""


class HealthConfig(Config):
    """When a run counts as ill, and what is done for it."""

    enabled: bool = True
    """Whether steps that are not finite are skipped, signals are looked at and runs rolled back;
    without it, a loss that is not finite ends the run."""
    every: PositiveInt | None = None
    """Images between two looks at the signals; by default those between points of the curves, and
    of 16 steps at least."""
    patience: PositiveInt = 3
    """Looks in a row that must agree before anything is said or done."""
    stuck_steps: PositiveInt = 5
    """Skipped steps in a row after which the weights, and not a batch, are to blame."""
    loss_spike: PositiveFloat = 10.0
    """Distance of a loss from its running median, in robust spreads, that is too far."""
    least_diversity: NonNegativeFloat = 0.08
    """Mean distance between two generated pictures, over that between two real ones."""
    worse_distance: float = Field(default=5.0, gt=1.0)
    """Quick distance to real pictures, over the run's best so far, that is too far."""
    saturated_loss: NonNegativeFloat = 1e-3
    """Adversarial loss below which a discriminator has nothing left to teach; only a warning."""
    saturated_unpenalised: NonNegativeFloat = 0.05
    """The same where no gradient penalty holds it back; the ladder then gives it one."""
    largest_score: PositiveFloat = 1e4
    """Mean score of a discriminator, either sign, that is too large."""
    largest_update: PositiveFloat = 0.5
    """Length of a step, over the length of the weights, that is too long."""
    class_skew: float = Field(default=0.8, gt=0.0, le=1.0)
    """Distance of the classes since the last look from those of the run so far; 1 is one class."""
    least_kl: NonNegativeFloat = 0.05
    """Nats of KL per picture below which a posterior tells nothing; only a warning."""
    worse_card: float = Field(default=2.0, gt=1.0)
    """Headline of a quality card, over the best one, that is too far."""
    least_coverage: NonNegativeFloat = 0.25
    """Coverage of a quality card, over the best one, that is too little."""
    max_rollbacks: NonNegativeInt = 3
    """Returns to the last healthy checkpoint before the run is given up."""
    learning_rate_factor: float = Field(default=0.5, gt=0.0, le=1.0)
    """What the learning rate is multiplied by at each roll-back."""
    penalty_factor: float = Field(default=2.0, ge=1.0)
    """What the weights of gradient penalties are multiplied by at each roll-back."""
    penalty_floor: NonNegativeFloat = 0.3
    """The least weight of a gradient penalty after the first roll-back."""


@dataclass(frozen=True)
class Finding:
    """A figure that is beyond its threshold."""

    signal: str
    """Its name: a key of `MEANING`, and after a colon what it was measured on."""
    value: float
    threshold: float
    streak: int
    """Looks in a row for which it has been so."""
    patience: int
    """Looks in a row that make it more than chance."""
    grave: bool = True
    """Whether the ladder may roll back for it; others are only told."""

    @property
    def raised(self) -> bool:
        """Whether it has been so for long enough."""
        return self.streak >= self.patience


MEANING = {
    "step not finite": (
        "gradients of single steps were not finite numbers, and no rank took these steps",
        "distgen data verify finds damaged pictures; lower training.learning_rate if many come",
    ),
    "steps not finite": (
        "losses or gradients are not finite numbers, step after step",
        "lower training.learning_rate, or train with training.precision=fp32",
    ),
    "weights not finite": (
        "weights are not finite numbers any more",
        "lower training.learning_rate",
    ),
    "loss diverges": (
        "a loss has left its usual range for good",
        "lower training.learning_rate, or lengthen training.warmup_images",
    ),
    "mode collapse": (
        "generated pictures are nearly all the same",
        "raise objective.r1 and objective.r2, or lower training.learning_rate",
    ),
    "pictures diverge": (
        "generated pictures have moved far away from real ones",
        "raise objective.r1 and objective.r2, or lower training.learning_rate",
    ),
    "card worse": (
        "the quality card has become much worse than the best one",
        "lower training.learning_rate, or end runs in time with training.early_stop",
    ),
    "coverage lost": (
        "generated pictures no longer cover the real ones",
        "raise objective.r1 and objective.r2",
    ),
    "discriminator saturated": (
        "the discriminator tells pictures apart without effort, and teaches nothing",
        "raise objective.r1 and objective.r2, or use data.augment",
    ),
    "scores explode": (
        "the discriminator's scores grow without bound",
        "raise objective.r1 and objective.r2, or lower training.learning_rate",
    ),
    "steps too long": (
        "single steps change weights by as much as they are",
        "lower training.learning_rate",
    ),
    "network stands still": (
        "a network's weights do not change",
        "look at its gradients; the phase that should train it has no effect",
    ),
    "posterior collapse": (
        "latents tell nothing of the pictures",
        "set objective.free_bits, lower objective.beta or lengthen objective.kl_warmup_images",
    ),
    "classes one-sided": (
        "nearly all pictures of late are of the same class",
        "raise data.shuffle_window or data.lanes, or set data.balance=classes",
    ),
}
"""What a signal means, and what to try."""


def meaning(signal: str) -> tuple[str, str]:
    """What a signal means and what to try, with what it was measured on."""
    name, _, on = signal.partition(": ")
    what, remedy = MEANING[name]
    return (f"{what} ({on})" if on else what), remedy


def streak(values: Sequence[float], beyond: Callable[[float], bool]) -> int:
    """How many of the last values, without a gap, are beyond."""
    count = 0
    for value in reversed(values):
        if not beyond(value):
            break
        count += 1
    return count


def _above(
    signal: str, values: Sequence[float], limit: float, config: HealthConfig, *, grave: bool = True
) -> Finding | None:
    count = streak(values, lambda value: value > limit)
    return Finding(signal, values[-1], limit, count, config.patience, grave) if count else None


def _below(
    signal: str, values: Sequence[float], limit: float, config: HealthConfig, *, grave: bool = True
) -> Finding | None:
    count = streak(values, lambda value: value < limit)
    return Finding(signal, values[-1], limit, count, config.patience, grave) if count else None


def loss_limit(losses: Sequence[float], spreads: float) -> float:
    """What a loss should not exceed: its median and so many robust spreads.

    The spread is the median absolute deviation, as a standard deviation (times 1.4826), and at
    least a tenth of the largest of the losses: series that hardly move have spikes of no meaning.
    """
    values = np.asarray(losses, dtype=np.float64)
    median = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - median)))
    return median + spreads * max(deviation, 0.1 * float(np.abs(values).max()), 1e-12)


def loss_divergence(name: str, losses: Sequence[float], config: HealthConfig) -> Finding | None:
    """A loss above its usual range, which the last `patience` looks do not shape."""
    usual = losses[: -config.patience]
    if len(usual) < _ENOUGH:
        return None
    limit = loss_limit(usual, config.loss_spike)
    return _above(f"loss diverges: {name}", losses[-config.patience :], limit, config)


def mode_collapse(
    diversities: Sequence[float],
    best: float,
    config: HealthConfig,
    *,
    late: bool,
    grave: bool = True,
) -> Finding | None:
    """Generated pictures that resemble one another, once they did not or should not any more.

    Args:
        diversities: Distance of generated pairs over that of real pairs, at each look.
        best: The run's largest.
        config: Thresholds.
        late: Whether a run of this length should have learnt to draw different pictures.
        grave: Whether it is a fault. A likelihood model whose decoder needs no latents draws the
            same mean each time, and may be right.
    """
    if not (late or best > 5.0 * config.least_diversity):
        return None
    return _below("mode collapse", diversities, config.least_diversity, config, grave=grave)


def picture_divergence(
    distances: Sequence[float], best: float, first: float, config: HealthConfig, *, late: bool
) -> Finding | None:
    """Generated pictures that moved away from real ones, or late are as far as they were at first.

    The distance is relative to the variance of real pictures (see `probe.quick_distance`): always
    the same grey has 1, always the same real picture about 2. A healthy model that learns slowly
    may long be above either.

    Args:
        distances: At each look.
        best: The run's smallest.
        first: That of the untrained model.
        config: Thresholds.
        late: Whether a run of this length should have learnt something.
    """
    limit = max(config.worse_distance * best, best + 0.75)
    limit = min(limit, max(first, 1.5)) if late else limit
    return _above("pictures diverge", distances, limit, config)


def discriminator_state(
    series: Mapping[str, Sequence[float]], config: HealthConfig, *, penalised: bool = True
) -> list[Finding | None]:
    """Saturation and explosion, where there is a discriminator.

    Neither is a fault by itself, but a discriminator without any gradient penalty that wins goes
    on to win by more, until it teaches nothing (Mescheder et al. 2018).
    """
    sizes = {
        name: [abs(value) for value in series.get(f"discriminator/{name}", ())]
        for name in ("adversarial", "real_score", "fake_score")
    }
    adversarial = sizes.pop("adversarial")
    return [
        _below(
            "discriminator saturated",
            adversarial,
            config.saturated_loss if penalised else config.saturated_unpenalised,
            config,
            grave=not penalised,
        ),
        *(
            _above(f"scores explode: {name}", scores, config.largest_score, config, grave=False)
            for name, scores in sizes.items()
        ),
    ]


def update_state(name: str, ratios: Sequence[float], config: HealthConfig) -> Finding | None:
    """A network that stands still or jumps, by the length of its steps over that of its weights."""
    if count := streak(ratios, lambda ratio: ratio == 0.0):
        signal = f"network stands still: {name}"
        return Finding(signal, 0.0, 0.0, count, config.patience, grave=False)
    return _above(f"steps too long: {name}", ratios, config.largest_update, config, grave=False)


def posterior_collapse(kls: Sequence[float], config: HealthConfig, *, late: bool) -> Finding | None:
    """A KL of nothing, late in a run. A strong decoder may rightly want it, so only a warning."""
    return _below("posterior collapse", kls if late else (), config.least_kl, config, grave=False)


_LEAST_ROOM = 0.4
"""What a class could have beyond its usual share counts as at least this much."""


def class_skew(counts_c: np.ndarray, usual_c: np.ndarray) -> float:
    """How one-sided classes are: 0 as usual, 1 where all pictures are of one.

    The most that a class has beyond its usual share, over the most that it could have. Zero where
    there are too few pictures to say; and of a class that most pictures are of anyway it says
    little, for chance alone makes all of a few pictures such ones.
    """
    classes = int((usual_c > 0).sum())
    fewest = 10 * max(classes, 2)
    if classes < 2 or counts_c.sum() < fewest or usual_c.sum() < 3 * fewest:
        return 0.0
    now, usual = counts_c / counts_c.sum(), usual_c / usual_c.sum()
    return float(((now - usual) / np.maximum(1.0 - usual, _LEAST_ROOM)).max())


@dataclass(frozen=True)
class Graded:
    """What health needs of a quality card."""

    images_seen: int
    headline: float
    """Lower is better."""
    floor: float
    """What real pictures have."""
    coverage: float
    yardstick: str
    """Cards with another one do not compare."""


def comparable(cards: Sequence[Graded]) -> list[Graded]:
    """The cards that were measured as the last one was, oldest first."""
    return [card for card in cards if card.yardstick == cards[-1].yardstick]


def card_state(cards: Sequence[Graded], config: HealthConfig) -> list[Finding]:
    """A card much worse than the best before it; two in a row are not chance.

    The floor is added to the limit: near it a headline is mostly noise.
    """
    cards = comparable(cards)
    if len(cards) < 2:
        return []
    found = []
    best = min(card.headline for card in cards)
    limit = config.worse_card * best + cards[-1].floor
    if count := streak([card.headline for card in cards], lambda value: not value <= limit):
        found.append(Finding("card worse", cards[-1].headline, limit, count, _CARDS))
    covered = max(card.coverage for card in cards)
    least = config.least_coverage * covered
    if covered > 0.1 and (
        count := streak([card.coverage for card in cards], lambda value: not value >= least)
    ):
        found.append(Finding("coverage lost", cards[-1].coverage, least, count, _CARDS))
    return found


def is_late(looks: int, images_seen: int, images: int) -> bool:
    """Whether a run should have learnt something: a quarter of it is over, and enough by itself."""
    return looks >= 20 and images_seen >= max(0.25 * images, _LEARNING_IMAGES)


def clean(value: float) -> float:
    """A figure that JSON has a word for: what is not a number becomes the largest one."""
    return value if math.isfinite(value) else math.copysign(1e308, value)
