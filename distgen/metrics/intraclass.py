"""Fréchet distances inside classes: what a model does with the classes that it was asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distgen.metrics.frechet import Moments, frechet_distance, moments


def comparable_counts(
    reference_labels_n: np.ndarray, floor_labels_n: np.ndarray, classes: int
) -> np.ndarray:
    """Pictures of each class that both sets have, int64 `[classes]`.

    Distances of unequal counts do not compare, so this is how many of each class are looked at.
    """
    counts = [
        np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes)
        for labels in (reference_labels_n, floor_labels_n)
    ]
    least: np.ndarray = np.minimum(*counts)
    return least


def class_moments(
    features_nd: np.ndarray, labels_n: np.ndarray, counts_c: np.ndarray
) -> dict[int, Moments]:
    """Mean and covariance of each class that has more pictures than its features dimensions.

    With fewer, a covariance is singular and the distance says more of the count than of the
    pictures.

    Args:
        features_nd: Features of all pictures.
        labels_n: Their classes.
        counts_c: How many pictures of each class are looked at, the first ones.
    """
    enough = np.flatnonzero(counts_c > features_nd.shape[1]).tolist()
    return {
        label: moments(features_nd[np.flatnonzero(labels_n == label)[: counts_c[label]]])
        for label in enough
    }


def class_distances(
    reference: Mapping[int, Moments],
    features_nd: np.ndarray,
    labels_n: np.ndarray,
    counts_c: np.ndarray,
) -> np.ndarray:
    """Fréchet distance of each class to the reference's (Miyato & Koyama 2018), `[classes]`.

    Not a number where a class has too few pictures.
    """
    distances = np.full(len(counts_c), np.nan)
    for label, others in class_moments(features_nd, labels_n, counts_c).items():
        distances[label] = frechet_distance(reference[label], others)
    return distances
