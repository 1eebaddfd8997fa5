"""What a finished run leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distgen.core.storage import sha256_of
from distgen.metrics.card import Card
from distgen.training.run import RunFolder


@dataclass(frozen=True)
class Outcome:
    """What a run that came to its end leaves."""

    run: str
    """Path or URL of the run's folder."""
    images_seen: int
    digest: str
    """SHA-256 of the bundle's manifest: the model's identity."""
    card: dict[str, Any]
    """The quality card of the bundled weights."""


def headline(card: Card | None) -> str:
    """A card's headline figure in a few characters, such as `FD 21.3`."""
    return f"{card.headline_name} {card.headline:.4g}" if card else ""


def finished_outcome(run: RunFolder) -> Outcome:
    """The outcome of a run that came to its end earlier."""
    return Outcome(
        run=str(run.location),
        images_seen=run.end().images_seen,
        digest=sha256_of((run.bundle / "manifest.json").read_bytes()),
        card=run.card.read_json(),
    )
