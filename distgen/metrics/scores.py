"""Scores of pictures in one feature space, and of real pictures beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from distgen.metrics.coverage import Manifold, overlap
from distgen.metrics.frechet import Moments, frechet_distance, moments


class Part(BaseModel):
    """Base of what a card is made of: frozen, and nothing in it that is not declared."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        # JSON has no word for what a diverged model's likelihood is, and null does not come back.
        ser_json_inf_nan="strings",
    )


class Scores(Part, allow_inf_nan=False):
    """One set of pictures against the reference, in one feature space."""

    frechet_distance: float
    """Fréchet distance; lower is better."""
    precision: float
    """Share of these pictures that look like a real one."""
    recall: float
    """Share of real pictures that look like one of these."""
    density: float
    """How densely these lie where real pictures are; about 1 for real ones."""
    coverage: float
    """Share of real pictures that have one of these nearby."""

    def to_row(self) -> np.ndarray:
        """The figures in the order of their fields, float64 `[5]`."""
        return np.array(list(self.model_dump().values()), dtype=np.float64)

    @classmethod
    def from_row(cls, row: np.ndarray) -> Scores:
        """The scores that `to_row` gave."""
        return cls(**dict(zip(cls.model_fields, row.tolist(), strict=True)))


class ExtractorScores(Part):
    """The scores in one feature space, beside those of real pictures."""

    name: str
    """The extractor."""
    digest: str
    """Identity of its weights and preprocessing."""
    dimensions: int
    """Length of its feature vectors."""
    generated: Scores
    """The model's pictures."""
    floor: Scores
    """Real pictures that the reference does not hold: as good as can be measured."""


@dataclass(frozen=True)
class Reference:
    """Reference features, with what is computed from them once."""

    moments: Moments
    manifold: Manifold

    @classmethod
    def of(cls, features_nd: np.ndarray, neighbours: int) -> Reference:
        """Measure by these features."""
        return cls(moments(features_nd), Manifold(features_nd, neighbours))

    def score(self, features_nd: np.ndarray) -> Scores:
        """Score other features against them."""
        distance = frechet_distance(self.moments, moments(features_nd))
        found = overlap(self.manifold, Manifold(features_nd, self.manifold.neighbours))
        return Scores(frechet_distance=distance, **asdict(found))
