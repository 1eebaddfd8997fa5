from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.models.latents import interpolate, truncate

seeds = st.integers(0, 2**32 - 1)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@given(seed=seeds, bound=st.floats(0.05, 10.0))
def test_truncated_latents_stay_within_the_bound_in_order_and_sign(seed, bound):
    latents = np.sort(normals(seed, 32))
    cut = truncate(latents, bound)
    assert np.abs(cut).max() <= bound * (1 + 1e-6)
    assert (np.diff(cut) >= 0).all()
    assert (np.sign(cut) == np.sign(latents)).all()


@pytest.mark.parametrize("bound", [0.1, 1.0, 9.0])
def test_latents_far_out_end_at_the_bound(bound):
    far = np.array([-100.0, -9.0, 9.0, 100.0], dtype=np.float32)
    cut = truncate(far, bound)
    np.testing.assert_allclose(cut, bound * np.sign(far), rtol=0.01)


def test_a_wide_bound_changes_nothing_and_a_narrow_one_fills_it_evenly():
    latents = normals(0, 100_000)
    np.testing.assert_allclose(truncate(latents, 10.0), latents, atol=1e-5)
    cut = truncate(latents, 0.1)
    counts, _ = np.histogram(cut, bins=10, range=(-0.1, 0.1))
    np.testing.assert_allclose(counts, 10_000, rtol=0.05)


@given(seed=seeds, steps=st.integers(2, 20))
def test_the_arc_has_both_its_ends(seed, steps):
    first, second = normals(seed, 2, 16)
    between = interpolate(first, second, steps)
    assert between.shape == (steps, 16)
    np.testing.assert_allclose(between[0], first, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(between[-1], second, rtol=1e-6, atol=1e-6)


def test_lengths_on_the_arc_are_those_of_its_ends():
    first, second = normals(1, 2, 512)
    lengths = np.linalg.norm(interpolate(first, second, 21), axis=1)
    ends = sorted((np.linalg.norm(first), np.linalg.norm(second)))
    assert lengths.min() > 0.97 * ends[0], "a straight line would dip to 0.71"
    assert lengths.max() < 1.03 * ends[1]


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_ends_with_no_arc_between_them_are_joined_all_the_same(factor: float):
    first = normals(2, 8)
    between = interpolate(first, (factor * first).astype(np.float32), 5)
    assert np.isfinite(between).all()
    np.testing.assert_allclose(between[-1], factor * first, atol=1e-5)
