"""Whether one model may take another's place, by their quality cards."""

from __future__ import annotations

from distgen.core.errors import UsageError
from distgen.metrics.card import Card
from distgen.registry.further_rows import short


def refuse_if_worse(card: Card | None, champion: Card | None, label: str) -> None:
    """Refuse a model that is worse than the one whose place it would take.

    Args:
        card: The model's.
        champion: The other's.
        label: What messages call the other.

    Raises:
        UsageError: It is worse, or the cards do not compare.
    """
    force = "or promote it all the same with --force"
    if card is None or champion is None:
        raise UsageError(
            f"The model cannot be compared with {label}: "
            f"{'it' if card is None else label} has no quality card.",
            remedy=f"distgen evaluate RUN --into-bundle, {force}",
        )
    differing = [
        f"{key} {card.yardstick[key]} here, {value} there"
        for key, value in champion.yardstick.items()
        if card.yardstick[key] != value
    ]
    if differing:
        raise UsageError(
            f"The model cannot be compared with {label}: their cards differ in how.",
            cause="; ".join(differing),
            remedy=f"measure it the same way with distgen evaluate RUN --into-bundle, {force}",
        )
    if card.headline > champion.headline:
        by = card.headline - champion.headline
        share = f" ({by / champion.headline:.0%})" if champion.headline > 0 else ""
        raise UsageError(
            f"The model is worse than {label} by {short(by)}{share}: its {card.headline_name} "
            f"is {short(card.headline)}, not {short(champion.headline)} or less.",
            cause=f"measured in {card.extractors[0].name}, {card.samples:,} pictures, "
            f"floor {short(card.extractors[0].floor.frechet_distance)}",
            remedy=f"keep it under another alias with --alias candidate, {force}",
        )
