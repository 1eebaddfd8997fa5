"""Kernel distance against a computation by hand, and what an unbiased estimate has to do."""

from __future__ import annotations

import numpy as np
import pytest

from distgen.metrics import kernel
from distgen.metrics.kernel import KernelEstimate, kernel_distance, squared_mmd


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 3 of Gretton et al. 2012, a pair at a time."""

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within_a = [k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j]
    within_b = [k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j]
    across = [k(x, y) for x in a for y in b]
    return float(np.mean(within_a) + np.mean(within_b) - 2 * np.mean(across))


def test_the_estimate_is_that_of_the_equation():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(7, 5)), random.normal(0.5, 2.0, size=(6, 5))
    assert squared_mmd(a, b) == pytest.approx(by_hand(a, b), rel=1e-12)


def test_a_case_that_needs_no_computer():
    # One dimension: k(0, 0) = 1, k(1, 1) = 8, k(0, 1) = 1.
    zeros, ones = np.zeros((2, 1)), np.ones((2, 1))
    assert squared_mmd(zeros, ones) == pytest.approx(1 + 8 - 2 * 1)


def test_sets_of_one_distribution_are_at_zero_on_either_side():
    random = np.random.default_rng(1)
    found = [kernel_distance(*random.normal(size=(2, 400, 4))) for _ in range(40)]
    distances = np.array([each.distance for each in found])
    assert (distances < 0).any()
    assert (distances > 0).any()
    assert abs(distances.mean()) < 4 * distances.std() / np.sqrt(len(distances))
    # The error that is told is the one that there is.
    told = np.mean([each.standard_error for each in found])
    assert told == pytest.approx(distances.std(), rel=0.3)


def test_other_sets_are_further_than_any_error():
    random = np.random.default_rng(2)
    found = kernel_distance(random.normal(size=(500, 4)), random.normal(0.7, 1, size=(500, 4)))
    assert found.distance > 5 * found.standard_error > 0


def test_blocks_of_the_paper_where_there_are_enough_and_five_at_least(monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK_PICTURES", 20)
    random = np.random.default_rng(3)
    many = kernel_distance(*random.normal(size=(2, 130, 2)))
    assert (many.blocks, many.block_pictures) == (6, 20)
    few = kernel_distance(*random.normal(size=(2, 50, 2)))
    assert (few.blocks, few.block_pictures) == (5, 10)
    single = kernel_distance(*random.normal(size=(2, 3, 2)))
    assert (single.blocks, single.block_pictures) == (1, 2)
    assert np.isnan(single.standard_error)


def test_sorted_sets_do_not_make_blocks_of_single_classes():
    random = np.random.default_rng(4)
    classes = np.repeat([-3.0, 3.0], 300)[:, None]
    a, b = (classes + random.normal(size=(600, 1)) * 0.1 for _ in range(2))
    found = kernel_distance(a, b)
    assert abs(found.distance) < 4 * found.standard_error


def test_float32_features_are_measured_in_float64():
    random = np.random.default_rng(5)
    features = (random.normal(size=(2, 100, 64)) * 30).astype(np.float32)
    assert kernel_distance(*features) == kernel_distance(*features.astype(np.float64))


def test_an_estimate_comes_back_from_its_row():
    estimate = KernelEstimate(0.5, 0.25, 5, 100)
    assert KernelEstimate.from_row(estimate.to_row()) == estimate
