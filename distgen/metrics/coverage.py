"""How faithful and how diverse: precision, recall, density and coverage by nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distgen.metrics.ranks import Tell, quiet

_CHUNK_ROWS = 1024
"""Rows of a distance matrix in memory at once: at 10,000 columns, 40 MB."""


@dataclass(frozen=True)
class Manifold:
    """A set of features and, around each, the ball that reaches to its k-th nearest neighbour."""

    features_nd: np.ndarray
    neighbours: int
    radii_n: Tensor
    """Distance of every point to its k-th nearest other point."""

    @classmethod
    def of(cls, features_nd: np.ndarray, neighbours: int, on_progress: Tell = quiet) -> Manifold:
        """The manifold of these features, k being `neighbours`."""
        points = _tensor(features_nd)
        k = min(neighbours, len(points) - 1)
        radii = []
        for start, distances in _distance_rows(points, points, on_progress):
            # A point is no neighbour of itself, and rounding may not put it at exactly zero.
            own = torch.arange(len(distances))
            distances[own, own + start] = torch.inf
            radii.append(distances.kthvalue(k, dim=1).values)
        return cls(features_nd, neighbours, torch.cat(radii))


@dataclass(frozen=True)
class Overlap:
    """How two manifolds cover each other."""

    precision: float
    """Share of generated pictures inside some real picture's ball (Kynkäänniemi et al. 2019)."""
    recall: float
    """Share of real pictures inside some generated picture's ball (Kynkäänniemi et al. 2019)."""
    density: float
    """Real balls around a generated picture, on average, over k; may exceed 1 (Naeem 2020)."""
    coverage: float
    """Share of real pictures whose ball holds a generated picture (Naeem et al. 2020)."""


def overlap(real: Manifold, generated: Manifold, on_progress: Tell = quiet) -> Overlap:
    """Precision, recall, density and coverage of `generated` with respect to `real`."""
    count_real, count_generated = len(real.features_nd), len(generated.features_nd)
    k = min(real.neighbours, count_real - 1)
    recalled = covered = in_balls = 0
    held = torch.zeros(count_generated, dtype=torch.bool)
    rows, columns = _tensor(real.features_nd), _tensor(generated.features_nd)
    for start, distances in _distance_rows(rows, columns, on_progress):
        radii = real.radii_n[start : start + len(distances), None]
        in_real_ball = distances <= radii
        held |= in_real_ball.any(dim=0)
        in_balls += int(in_real_ball.sum())
        covered += int(in_real_ball.any(dim=1).sum())
        recalled += int((distances <= generated.radii_n[None, :]).any(dim=1).sum())
    return Overlap(
        precision=int(held.sum()) / count_generated,
        recall=recalled / count_real,
        density=in_balls / (k * count_generated),
        coverage=covered / count_real,
    )


def _tensor(features_nd: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features_nd, dtype=np.float32))


def _distance_rows(
    rows_nd: Tensor, columns_md: Tensor, on_progress: Tell
) -> Iterator[tuple[int, Tensor]]:
    """Euclidean distances, a block of rows at a time: (first row, distances `[rows, m]`)."""
    # Distances do not change when both sets are moved, and rounding is least around the origin.
    centre = columns_md.mean(dim=0)
    columns = columns_md - centre
    for start in range(0, len(rows_nd), _CHUNK_ROWS):
        rows = rows_nd[start : start + _CHUNK_ROWS] - centre
        yield start, torch.cdist(rows, columns)
        on_progress(f"{start + len(rows):,}/{len(rows_nd):,}")
