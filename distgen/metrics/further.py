"""Figures that are measured on request: modes, memorisation, and what a classifier learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from distgen.metrics import classification, memorisation, modes
from distgen.metrics.classification import ClassificationConfig, ClassificationScores
from distgen.metrics.features import Extractor
from distgen.metrics.generated import PictureMaker
from distgen.metrics.memorisation import MemorisationConfig, MemorisationScores
from distgen.metrics.modes import ModesConfig, ModeScores
from distgen.metrics.subject import Subject

SECTIONS = ("modes", "memorisation", "classification")
"""Keys of `evaluation` that ask for them."""
KEPT_BYTES = 256 << 20
"""Generated pictures that a rank keeps for a second look, at most; others are made again."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for; None where it is not."""

    modes: ModesConfig | None = None
    memorisation: MemorisationConfig | None = None
    classification: ClassificationConfig | None = None


@dataclass(frozen=True)
class Further:
    """What was measured; None where it was not asked for."""

    modes: ModeScores | None = None
    memorisation: MemorisationScores | None = None
    classification: ClassificationScores | None = None
    sheet_png: bytes = b""
    """Generated pictures beside their nearest training pictures, on rank 0."""


class Kept:
    """A rank's generated pictures by number, kept up to a limit and made again beyond it."""

    def __init__(self, maker: PictureMaker) -> None:
        self._maker = maker
        self._room = KEPT_BYTES
        self._kept: dict[range, np.ndarray] = {}

    def __call__(self, rows: range) -> np.ndarray:
        """These pictures, uint8 `[n, H, W, C]`."""
        known = self._kept.get(rows)
        if known is not None:
            return known
        made = self._maker.pictures(rows)
        if made.nbytes <= self._room:
            self._room -= made.nbytes
            self._kept[rows] = made
        return made


def measure(
    subject: Subject,
    wanted: Wanted,
    extractors: Mapping[str, Extractor],
    features: Mapping[str, np.ndarray],
    maker: PictureMaker,
    pictures: Callable[[range], np.ndarray],
) -> Further:
    """Measure what is asked for. Collective; scores are the same on every rank.

    Args:
        subject: The model and its data.
        wanted: What is asked for.
        extractors: By name.
        features: Of the generated pictures, by extractor's name, on every rank.
        maker: Makes the generated pictures by number.
        pictures: Gives this rank's generated pictures.
    """
    memories = None
    if wanted.memorisation is not None:
        space = wanted.memorisation.extractor
        memories = memorisation.measure(
            subject, wanted.memorisation, extractors[space], features[space], maker, pictures
        )
    return Further(
        modes=modes.measure(subject, wanted.modes) if wanted.modes else None,
        memorisation=memories.scores if memories else None,
        classification=classification.measure(subject, wanted.classification)
        if wanted.classification
        else None,
        sheet_png=memories.sheet_png if memories else b"",
    )
