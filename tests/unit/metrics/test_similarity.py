"""Squared error, PSNR and SSIM against values by hand and against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distgen.metrics.similarity import decibels, squared_error, ssim, summed_error


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of two grey pictures [H, W], window by window (Wang et al. 2004, section III.B)."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x, y = x.astype(float), y.astype(float)
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (p[row : row + 11, column : column + 11] for p in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a = (weights * (a - mean_a) ** 2).sum()
            var_b = (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * cov + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(values))


def test_squared_error_by_hand():
    truth = np.zeros((2, 2, 2, 1), np.uint8)
    picture = truth.copy()
    picture[0, 0, 0] = 255
    picture[1] = 10
    mse = squared_error(picture, truth)
    np.testing.assert_allclose(mse, [255**2 / 4, 100])
    np.testing.assert_allclose(summed_error(mse, 4), [1.0, 400 / 255**2])
    np.testing.assert_allclose(decibels(mse), [10 * math.log10(4), 10 * math.log10(255**2 / 100)])


def test_differences_do_not_wrap_around():
    black, white = np.zeros((1, 3, 3, 1), np.uint8), np.full((1, 3, 3, 1), 255, np.uint8)
    assert squared_error(black, white) == squared_error(white, black) == 255**2


def test_equal_pictures_are_as_alike_as_can_be_stated():
    picture = noise(2, 16, 16, 3)
    assert (squared_error(picture, picture) == 0).all()
    assert (decibels(np.zeros(2)) == 100).all()
    np.testing.assert_allclose(ssim(picture, picture), 1.0, rtol=1e-12)


@pytest.mark.parametrize("blend", [0.0, 0.3, 0.9])
def test_ssim_is_the_mean_over_windows_of_the_definition(blend):
    truth, other = noise(17, 13, seed=1), noise(17, 13, seed=2)
    mixed = (blend * truth + (1 - blend) * other).astype(np.uint8)
    found = ssim(mixed[None, :, :, None], truth[None, :, :, None])
    np.testing.assert_allclose(found, [by_definition(mixed, truth)], rtol=1e-10)


def test_ssim_of_colours_is_the_mean_over_channels():
    one, two = noise(1, 20, 20, 3, seed=1), noise(1, 20, 20, 3, seed=2)
    each = [ssim(one[..., [c]], two[..., [c]]) for c in range(3)]
    np.testing.assert_allclose(ssim(one, two), np.mean(each, axis=0), rtol=1e-12)


def test_ssim_of_flat_pictures_by_hand():
    one, two = np.full((1, 12, 12, 1), 100, np.uint8), np.full((1, 12, 12, 1), 50, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
    np.testing.assert_allclose(ssim(one, two), [expected], rtol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 9, 10, 11])
def test_small_pictures_have_a_similarity_too(side):
    one, two = noise(3, side, side, 1, seed=1), noise(3, side, side, 1, seed=2)
    assert np.isfinite(ssim(one, two)).all()
    assert (ssim(one, two) < 1).all()
