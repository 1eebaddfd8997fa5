"""Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of features, in float64."""

    mean_d: np.ndarray
    covariance_dd: np.ndarray

    @cached_property
    def root_dd(self) -> np.ndarray:
        """The symmetric square root of the covariance."""
        values, vectors = scipy.linalg.eigh(self.covariance_dd)
        # Rounding leaves eigenvalues of a singular covariance a little below zero.
        scaled = vectors * np.sqrt(np.clip(values, 0.0, None))
        root: np.ndarray = scaled @ vectors.T
        return root


def moments(features_nd: np.ndarray) -> Moments:
    """Mean and unbiased covariance of at least two rows."""
    features = np.asarray(features_nd, dtype=np.float64)
    mean_d = features.mean(axis=0)
    centred = features - mean_d
    return Moments(mean_d, centred.T @ centred / (len(features) - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared 2-Wasserstein distance of two Gaussians (Dowson & Landau 1982).

    |mu_a - mu_b|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2). The matrix under the last root is
    symmetric and positive semi-definite, so its eigenvalues are real and no general matrix square
    root, with its complex results for singular covariances, is needed.

    The estimate from samples is biased upwards, the more the fewer samples there are: compare only
    distances of equal sample counts, and read one against its floor.
    """
    product = a.root_dd @ b.covariance_dd @ a.root_dd
    values = scipy.linalg.eigvalsh((product + product.T) / 2.0)
    shared = np.sqrt(np.clip(values, 0.0, None)).sum()
    difference = a.mean_d - b.mean_d
    distance = (
        difference @ difference
        + np.trace(a.covariance_dd)
        + np.trace(b.covariance_dd)
        - 2.0 * shared
    )
    return max(float(distance), 0.0)
