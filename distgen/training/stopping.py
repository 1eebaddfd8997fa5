"""Early stopping and the best checkpoint, by the headline of the quality card."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, PositiveInt

from distgen.core.config import Config
from distgen.training.signals import Graded, comparable


class EarlyStopConfig(Config):
    """When a run ends before its length."""

    patience: PositiveInt = 5
    """Quality cards in a row that do not improve on the best one."""
    min_improvement: float = Field(default=0.01, ge=0.0, lt=1.0)
    """Share by which a headline must be lower than the best one before it to count."""


def best_card(cards: Sequence[Graded]) -> Graded | None:
    """The card with the lowest headline, the oldest of equals, among those like the last one."""
    return min(comparable(cards), key=lambda card: card.headline, default=None) if cards else None


def cards_without_improvement(cards: Sequence[Graded], min_improvement: float) -> int:
    """How many cards have come since the last one that improved on all before it."""
    best, waited = float("inf"), 0
    for card in comparable(cards) if cards else ():
        if card.headline < best * (1.0 - min_improvement):
            best, waited = card.headline, 0
        else:
            waited += 1
    return waited


def should_stop(cards: Sequence[Graded], config: EarlyStopConfig | None) -> bool:
    """Whether the last cards leave nothing to wait for."""
    if config is None:
        return False
    return cards_without_improvement(cards, config.min_improvement) >= config.patience
