"""Precision, recall, density and coverage on sets whose answers can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from distgen.metrics import coverage
from distgen.metrics.coverage import Manifold, Overlap, overlap


def line(*places: float) -> np.ndarray:
    return np.array([[place, 0.0] for place in places], dtype=np.float32)


def test_a_set_covers_itself():
    points = np.random.default_rng(0).normal(size=(200, 8))
    found = overlap(Manifold.of(points, 5), Manifold.of(points, 5))
    assert (found.precision, found.recall, found.coverage) == (1.0, 1.0, 1.0)
    assert found.density == pytest.approx(1 + 1 / 5, abs=0.02)  # the point itself and its k


def test_far_sets_have_nothing_in_common():
    points = np.random.default_rng(0).normal(size=(50, 8))
    assert overlap(Manifold.of(points, 3), Manifold.of(points + 1e3, 3)) == Overlap(0, 0, 0, 0)


def test_one_mode_of_two_is_precise_and_covers_half():
    real = Manifold.of(line(0, 1, 2, 100, 101, 102), 1)
    found = overlap(real, Manifold.of(line(0, 1, 2, 0.5, 1.5, 1.2), 1))
    assert found.precision == 1.0
    assert found.coverage == 0.5
    assert found.recall == 0.5


def test_every_figure_of_a_small_example():
    # Balls of real points: [-1, 1], [0, 2], [-3, 7] around 0, 1 and 5 -> radii 1, 1, 4.
    real, made = Manifold.of(line(0, 1, 5), 1), Manifold.of(line(0.5, 6.5, 20), 1)
    np.testing.assert_allclose(real.radii_n.numpy(), [1, 1, 4])
    np.testing.assert_allclose(made.radii_n.numpy(), [6, 6, 13.5])
    found = overlap(real, made)
    assert found.precision == pytest.approx(2 / 3)  # 20 lies in no ball
    assert found.recall == 1.0  # 0 and 1 in [-5.5, 6.5], 5 in it too
    assert found.density == pytest.approx(3 / 3)  # 0.5 in two balls, 6.5 in one; 5's ends at 9
    assert found.coverage == 1.0


def test_radii_are_those_of_scikit_learn_and_do_not_depend_on_chunks(monkeypatch):
    points = np.random.default_rng(1).normal(size=(150, 16)).astype(np.float32)
    distances, _ = NearestNeighbors(n_neighbors=6).fit(points).kneighbors(points)
    whole = Manifold.of(points, 5).radii_n.numpy()
    np.testing.assert_allclose(whole, distances[:, 5], rtol=1e-4)
    monkeypatch.setattr(coverage, "_CHUNK_ROWS", 7)
    np.testing.assert_allclose(Manifold.of(points, 5).radii_n.numpy(), whole, rtol=1e-4)


def test_fewer_points_than_neighbours_use_what_there_is():
    found = overlap(Manifold.of(line(0, 1), 5), Manifold.of(line(0.2, 0.4), 5))
    assert found.precision == found.coverage == 1.0


def test_it_is_told_how_far_the_distances_are(monkeypatch):
    monkeypatch.setattr(coverage, "_CHUNK_ROWS", 3)
    told: list[str] = []
    real, made = (Manifold.of(line(0, 1, 2, 3), 1, told.append) for _ in range(2))
    assert told == ["3/4", "4/4"] * 2
    overlap(real, made, told.append)
    assert told == ["3/4", "4/4"] * 3
