"""The Fréchet distance is the one between Gaussians, whatever the covariances' rank."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from distgen.metrics.frechet import Moments, frechet_distance, moments


def gaussian(seed: int, dimensions: int, rank: int | None = None) -> Moments:
    random = np.random.default_rng(seed)
    factor = random.normal(size=(dimensions, dimensions if rank is None else rank))
    return Moments(random.normal(size=dimensions), factor @ factor.T)


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_diagonal_gaussians_have_the_closed_form(seed, dimensions):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, dimensions))
    s, t = random.uniform(0, 3, size=(2, dimensions))
    expected = ((a - b) ** 2).sum() + ((s - t) ** 2).sum()
    distance = frechet_distance(Moments(a, np.diag(s**2)), Moments(b, np.diag(t**2)))
    assert distance == pytest.approx(expected, abs=1e-7)


@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_regular_gaussians_agree_with_the_matrix_square_root(seed, dimensions):
    a, b = gaussian(seed, dimensions), gaussian(seed + 1, dimensions)
    root = scipy.linalg.sqrtm(a.covariance_dd @ b.covariance_dd).real
    difference = a.mean_d - b.mean_d
    expected = difference @ difference + np.trace(a.covariance_dd + b.covariance_dd - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 10))
@settings(max_examples=30, deadline=None)
def test_it_is_symmetric_and_zero_only_for_itself(seed, rank):
    a, b = gaussian(seed, 10, rank), gaussian(seed + 1, 10, rank)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6, abs=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-5)
    assert frechet_distance(a, b) > 0.1


def test_fewer_samples_than_dimensions_are_no_trouble():
    features = np.random.default_rng(0).normal(size=(20, 200)).astype(np.float32)
    assert frechet_distance(moments(features), moments(features)) == pytest.approx(0, abs=1e-3)
    assert np.isfinite(frechet_distance(moments(features[:10]), moments(features[10:])))


def test_moments_are_those_of_numpy():
    features = np.random.default_rng(0).normal(size=(50, 7))
    found = moments(features)
    np.testing.assert_allclose(found.mean_d, features.mean(axis=0))
    np.testing.assert_allclose(found.covariance_dd, np.cov(features.T), atol=1e-12)
