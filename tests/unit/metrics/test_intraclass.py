"""Distances inside classes: the mean over those with enough pictures, each beside its floor."""

from __future__ import annotations

import numpy as np
import pytest

from distgen.metrics.frechet import frechet_distance, moments
from distgen.metrics.intraclass import class_distances, class_moments, comparable_counts
from distgen.metrics.scores import ClassScores


def test_as_many_pictures_of_a_class_as_both_sets_have():
    reference, floor = np.array([0, 0, 0, 1, 2, -1]), np.array([0, 0, 1, 1, 7])
    assert comparable_counts(reference, floor, 4).tolist() == [2, 1, 0, 0]


def test_a_class_is_measured_by_itself_and_small_ones_are_left_out():
    random = np.random.default_rng(0)
    labels = np.array([0, 1] * 50 + [2] * 3)
    reference, made = random.normal(size=(103, 4)), random.normal(size=(103, 4))
    made[labels == 1] += 5.0
    counts = np.array([40, 50, 3])
    distances = class_distances(class_moments(reference, labels, counts), made, labels, counts)
    first = np.flatnonzero(labels == 0)[:40]
    expected = frechet_distance(moments(reference[first]), moments(made[first]))
    assert distances[0] == pytest.approx(expected, rel=1e-12)
    assert distances[1] > 4 * 25 * 0.8
    assert np.isnan(distances[2])


def test_the_headline_is_the_mean_of_measured_classes():
    nan = float("nan")
    scores = ClassScores.of(
        np.array([1.0, nan, 3.0]), np.array([0.5, nan, 0.7]), np.array([9, 2, 8])
    )
    assert scores.frechet_distance == pytest.approx(2.0)
    assert scores.floor == pytest.approx(0.6)
    assert scores.too_few == 1
    assert [(each.label, each.pictures) for each in scores.classes] == [(0, 9), (2, 8)]
    none = ClassScores.of(np.array([nan]), np.array([nan]), np.array([2]))
    assert (none.frechet_distance, none.floor, none.too_few) == (None, None, 1)


def test_swapped_classes_show_inside_classes_and_nowhere_else():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 200)
    reference = random.normal(size=(400, 2)) + 6.0 * labels[:, None]
    made = random.normal(size=(400, 2)) + 6.0 * (1 - labels)[:, None]
    counts = np.array([200, 200])
    inside = class_distances(class_moments(reference, labels, counts), made, labels, counts)
    assert frechet_distance(moments(reference), moments(made)) < 1.0
    assert (inside > 60).all()
