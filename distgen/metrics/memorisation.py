"""Whether a model repeats its training pictures: how near they are, and what that looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from distgen.core.config import Config
from distgen.data import read_samples
from distgen.metrics.features import Extractor, ExtractorName
from distgen.metrics.generated import PictureMaker
from distgen.metrics.grid import grid_png
from distgen.metrics.neighbours import Nearest, nearest
from distgen.metrics.reals import BLOCK, PictureSet, extract
from distgen.metrics.remember import remembered
from distgen.metrics.scores import Part
from distgen.metrics.subject import Subject

CLOSE_SHARE = 0.01
"""Held-out pictures that count as unusually close to a training picture."""
COPY_RMS = 0.02
"""Two pictures are copies where they differ by no more than this share of the range from black to
white, as the root of the mean square over pixels: five levels of 255."""
_SHEET_ROWS, _SHEET_NEIGHBOURS = 16, 5


class MemorisationConfig(Config):
    """Whether a model repeats training pictures: generated ones beside their nearest training
    pictures, of the whole set; off unless it is there.
    """

    extractor: ExtractorName = "pixel-pca64"
    """Where distances are measured; one of `evaluation.extractors`. The features of all training
    pictures are computed once and kept on the disk."""
    train_pictures: int = Field(default=200_000, ge=2)
    """Training pictures that are searched, at most; of a larger set as many are drawn."""


class MemorisationScores(Part):
    """How near generated pictures come to training pictures, beside how near held-out ones do."""

    extractor: str
    """Where distances were measured."""
    extractor_digest: str
    """Identity of its weights and preprocessing."""
    close_share: float
    """Generated pictures nearer to a training picture than the closest 1 % of real ones are."""
    close_distance: float
    """The distance that this closest 1 % lies within."""
    median_distance: float
    """Median distance of generated pictures to the nearest training picture."""
    floor_median_distance: float
    """The same of real pictures."""
    copies: int
    """Generated pictures that a training picture differs from by at most 2 % of the range."""
    floor_copies: int
    """The same of real pictures: sets may hold near duplicates."""
    identical: int
    """Generated pictures that are a training picture in every pixel."""
    samples: int
    """Generated pictures."""
    floor_samples: int
    """Real pictures."""
    floor_split: str
    """Where these come from: `test`, or `train` where none are held out; each is then compared
    with all others."""
    train_pictures: int
    """Training pictures that were searched."""
    train_total: int
    """Training pictures that there are."""

    def figures(self) -> dict[str, float]:
        """Figures by flat names."""
        return {
            "close_share": self.close_share,
            "nearest_distance": self.median_distance,
            "nearest_distance_floor": self.floor_median_distance,
            "copies": float(self.copies),
            "copies_floor": float(self.floor_copies),
        }


@dataclass(frozen=True)
class Memories:
    """What was found, and how it looks."""

    scores: MemorisationScores
    sheet_png: bytes
    """Generated pictures that are nearest to a training picture, each in a row with its nearest;
    empty on ranks other than 0."""


def measure(
    subject: Subject,
    config: MemorisationConfig,
    extractor: Extractor,
    features_nd: np.ndarray,
    maker: PictureMaker,
    pictures: Callable[[range], np.ndarray],
) -> Memories:
    """Compare generated pictures with the training set. Collective; scores alike on every rank.

    Args:
        subject: The model and its data.
        config: How to measure.
        extractor: The feature space.
        features_nd: Features of the generated pictures, on every rank.
        maker: Makes the generated pictures by number, for the sheet.
        pictures: Gives this rank's generated pictures, uint8 `[n, H, W, C]`.
    """
    ranks, count = subject.ranks, len(features_nd)
    training = subject.training(config.train_pictures, "memorisation")
    near = nearest(
        features_nd, training, extractor, _sheet_neighbours(training), ranks, subject.cache
    )
    floor = _floor(subject, training, extractor, count)
    differences = np.concatenate(
        [
            _difference(pictures(rows), training, near.places_nk[rows.start : rows.stop, 0])
            for rows in ranks.blocks(count, BLOCK, "nearest of")
        ]
        or [np.empty(0)]
    )
    differences = ranks.gather(differences)
    distances = near.distances_nk[:, 0]
    close = float(np.quantile(floor.distances_n, CLOSE_SHARE))
    scores = MemorisationScores(
        extractor=extractor.name,
        extractor_digest=extractor.digest,
        close_share=float((distances < close).mean()),
        close_distance=close,
        median_distance=float(np.median(distances)),
        floor_median_distance=float(np.median(floor.distances_n)),
        copies=int((differences <= COPY_RMS).sum()),
        floor_copies=int((floor.differences_n <= COPY_RMS).sum()),
        identical=int((differences == 0.0).sum()),
        samples=count,
        floor_samples=len(floor.distances_n),
        floor_split=floor.split,
        train_pictures=len(training),
        train_total=subject.data.num_samples,
    )
    sheet = _sheet(maker, training, near) if ranks.world.is_main else b""
    return Memories(scores, sheet)


@dataclass(frozen=True)
class _Floor:
    """How near real pictures are to training pictures."""

    distances_n: np.ndarray
    differences_n: np.ndarray
    split: str


def _floor(subject: Subject, training: PictureSet, extractor: Extractor, count: int) -> _Floor:
    held_out = subject.others(count, "memorisation floor")
    chosen, own = held_out, None
    if chosen is None:
        # Places are of the whole set, those that are searched among them or not.
        chosen = subject.training(count, "memorisation floor")
        own = chosen.indices_n
    ranks, cache = subject.ranks, subject.cache

    def compute() -> np.ndarray:
        features = extract(chosen.pictures, len(chosen), [extractor], ranks, "real pictures")
        near = nearest(features[extractor.name], training, extractor, 1, ranks, cache, own)
        parts = [
            _difference(chosen.pictures(rows), training, near.places_nk[rows.start : rows.stop, 0])
            for rows in ranks.blocks(len(chosen), BLOCK, "nearest of real pictures")
        ]
        differences = ranks.gather(np.concatenate(parts or [np.empty(0)]))
        return np.stack([near.distances_nk[:, 0], differences])

    key = f"nearest v1 {extractor.digest} {training.identity} {chosen.identity}"
    distances, differences = remembered(key, compute, ranks, cache)
    return _Floor(distances, differences, chosen.split)


def _difference(images_nhwc: np.ndarray, training: PictureSet, places_n: np.ndarray) -> np.ndarray:
    """Root mean square difference to one training picture each, as a share of the range, `[n]`."""
    originals = _at(training, places_n).astype(np.float64)
    squares = np.square(originals - images_nhwc).mean(axis=tuple(range(1, images_nhwc.ndim)))
    differences: np.ndarray = np.sqrt(squares) / 255.0
    return differences


def _at(training: PictureSet, places_n: np.ndarray) -> np.ndarray:
    """Training pictures by their places, which may repeat."""
    places, back = np.unique(places_n, return_inverse=True)
    return read_samples(training.shard_set, places, tolerance=training.tolerance)[0][back]


def _sheet_neighbours(training: PictureSet) -> int:
    return min(_SHEET_NEIGHBOURS, len(training))


def _sheet(maker: PictureMaker, training: PictureSet, near: Nearest) -> bytes:
    """The generated pictures that are nearest to a training picture, each followed by its own."""
    order = np.argsort(near.distances_nk[:, 0], kind="stable")[:_SHEET_ROWS].tolist()
    rows = []
    for number in order:
        rows.append(maker.pictures(range(number, number + 1)))
        rows.append(_at(training, near.places_nk[number]))
    return grid_png(np.concatenate(rows), columns=1 + near.places_nk.shape[1])
