"""Scores of pictures in one feature space, and of real pictures beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict

from distgen.metrics.coverage import Manifold, overlap
from distgen.metrics.frechet import Moments, frechet_distance, moments
from distgen.metrics.intraclass import class_distances, class_moments
from distgen.metrics.kernel import KernelEstimate, kernel_distance
from distgen.metrics.ranks import Tell, quiet


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


class KernelScores(Part):
    """Kernel distance (KID, Binkowski et al. 2018) in one feature space, beside its floor."""

    distance: float
    """Of the model's pictures; unbiased, so that a perfect model is on either side of zero."""
    standard_error: float | None
    """Standard error of the mean over blocks; null where there is one block only."""
    floor: float
    """Of real pictures that the reference does not hold."""
    floor_standard_error: float | None
    """Its standard error."""
    blocks: int
    """Pairs of blocks that were averaged; no picture is in two."""
    block_pictures: int
    """Pictures of each set in a block."""

    @classmethod
    def of(cls, estimate: KernelEstimate, floor: KernelEstimate) -> KernelScores:
        """An estimate beside its floor."""
        return cls(
            distance=estimate.distance,
            standard_error=_known(estimate.standard_error),
            floor=floor.distance,
            floor_standard_error=_known(floor.standard_error),
            blocks=estimate.blocks,
            block_pictures=estimate.block_pictures,
        )


class ClassDistance(Part):
    """One class of a conditional model."""

    label: int
    """Its place among the classes."""
    pictures: int
    """Generated, reference and floor pictures, each."""
    frechet_distance: float
    """Of the pictures that were asked for as this class to real ones of it."""
    floor: float
    """Of other real pictures of the class."""


class ClassScores(Part):
    """Fréchet distances inside classes (intra-FID, Miyato & Koyama 2018)."""

    frechet_distance: float | None
    """Mean over the measured classes; null where there is none."""
    floor: float | None
    """The same of real pictures that the reference does not hold."""
    too_few: int
    """Classes left out, which have no more pictures than their features have dimensions."""
    classes: tuple[ClassDistance, ...]
    """The measured ones."""

    @classmethod
    def of(cls, distances_c: np.ndarray, floor_c: np.ndarray, counts_c: np.ndarray) -> ClassScores:
        """Distances of all classes, not numbers where a class has too few pictures."""
        measured = np.flatnonzero(np.isfinite(floor_c)).tolist()
        return cls(
            frechet_distance=float(distances_c[measured].mean()) if measured else None,
            floor=float(floor_c[measured].mean()) if measured else None,
            too_few=len(counts_c) - len(measured),
            classes=tuple(
                ClassDistance(
                    label=label,
                    pictures=int(counts_c[label]),
                    frechet_distance=float(distances_c[label]),
                    floor=float(floor_c[label]),
                )
                for label in measured
            ),
        )


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
    kernel: KernelScores | None = None
    """Kernel distance; null in cards from before it was measured."""
    per_class: ClassScores | None = None
    """Distances inside classes; for conditional models."""

    def figures(self) -> dict[str, float]:
        """Every figure by a flat name, the Fréchet distance first."""
        flat = {f"{name}/{self.name}": v for name, v in self.generated.model_dump().items()}
        flat[f"frechet_floor/{self.name}"] = self.floor.frechet_distance
        if self.kernel is not None:
            flat[f"kernel_distance/{self.name}"] = self.kernel.distance
            flat[f"kernel_floor/{self.name}"] = self.kernel.floor
        classes = self.per_class
        if classes is not None and classes.frechet_distance is not None and classes.floor:
            flat[f"class_distance/{self.name}"] = classes.frechet_distance
            flat[f"class_floor/{self.name}"] = classes.floor
        return flat


@dataclass(frozen=True)
class Groups:
    """How many pictures of each class are compared; none for a model without classes."""

    labels_n: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Classes of the reference's pictures, which generated ones share."""
    counts_c: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Pictures of each class that are looked at."""


@dataclass(frozen=True)
class Measured:
    """What is known of one set of pictures against a reference."""

    scores: Scores
    kernel: KernelEstimate
    distances_c: np.ndarray
    """Fréchet distance of each class; not a number where it has too few pictures."""

    def to_row(self) -> np.ndarray:
        """All of it, float64 `[9 + classes]`."""
        return np.concatenate([self.scores.to_row(), self.kernel.to_row(), self.distances_c])

    @classmethod
    def from_row(cls, row: np.ndarray) -> Measured:
        """What `to_row` gave."""
        return cls(Scores.from_row(row[:5]), KernelEstimate.from_row(row[5:9]), row[9:])


@dataclass(frozen=True)
class Reference:
    """Reference features, with what is computed from them once."""

    moments: Moments
    manifold: Manifold
    by_class: Mapping[int, Moments]

    @classmethod
    def of(
        cls, features_nd: np.ndarray, neighbours: int, groups: Groups, on_progress: Tell = quiet
    ) -> Reference:
        """Measure by these features."""
        return cls(
            moments(features_nd),
            Manifold.of(features_nd, neighbours, on_progress),
            class_moments(features_nd, groups.labels_n, groups.counts_c),
        )

    def measure(
        self,
        features_nd: np.ndarray,
        labels_n: np.ndarray,
        counts_c: Sequence[int] | np.ndarray,
        on_progress: Tell = quiet,
    ) -> Measured:
        """Score other features against them, their classes by as many pictures as `counts_c`."""
        distance = frechet_distance(self.moments, moments(features_nd))
        other = Manifold.of(features_nd, self.manifold.neighbours, on_progress)
        found = overlap(self.manifold, other, on_progress)
        return Measured(
            Scores(frechet_distance=distance, **asdict(found)),
            kernel_distance(self.manifold.features_nd, features_nd),
            class_distances(self.by_class, features_nd, labels_n, np.asarray(counts_c)),
        )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
