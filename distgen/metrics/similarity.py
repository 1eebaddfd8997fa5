"""How alike two pictures are, pixel by pixel and window by window, in float64."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

RANGE = 255.0
"""Distance of the largest pixel value from the smallest."""
MOST_DECIBELS = 100.0
"""PSNR of pictures that do not differ, so that means stay finite."""

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2


def squared_error(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean squared difference `[...]` of pictures `[..., H, W, C]` with values from 0 to 255."""
    difference = pictures.astype(np.float64) - truth.astype(np.float64)
    mean: np.ndarray = np.square(difference).mean(axis=(-3, -2, -1))
    return mean


def summed_error(mse: np.ndarray, pixels: int) -> np.ndarray:
    """The squared error summed over a picture's values on a scale from 0 to 1.

    This is the MSE of papers on Moving MNIST, and of OpenSTL.

    Args:
        mse: From `squared_error`.
        pixels: Values of a picture: height times width times channels.
    """
    summed: np.ndarray = mse * (pixels / RANGE**2)
    return summed


def decibels(mse: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of a mean squared error, in dB, at most `MOST_DECIBELS`."""
    least = RANGE**2 / 10 ** (MOST_DECIBELS / 10)
    ratio: np.ndarray = 10.0 * np.log10(RANGE**2 / np.maximum(mse, least))
    return ratio


def ssim(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity `[...]` of uint8 pictures `[..., H, W, C]` (Wang et al. 2004).

    As in the paper: Gaussian windows of 11x11 with a deviation of 1.5, K1 = 0.01, K2 = 0.03,
    moments without Bessel's correction, and the mean over all windows that lie in the picture; of
    colours it is the mean over channels. In a picture of less than 11 pixels a side the window is
    the largest odd one that fits.
    """
    x, y = (np.moveaxis(array, -1, -3).astype(np.float64) for array in (pictures, truth))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    similarity: np.ndarray = (luminance * structure).mean(axis=(-3, -2, -1))
    return similarity


def _blur(values_hw: np.ndarray) -> np.ndarray:
    """Means over all windows inside `[..., H, W]`, weighted by a Gaussian."""
    for axis in (-2, -1):
        length = values_hw.shape[axis]
        radius = (min(_WINDOW, length - 1 + length % 2) - 1) // 2
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / _SIGMA) ** 2)
        values_hw = correlate1d(values_hw, weights / weights.sum(), axis=axis, mode="constant")
        inside = np.arange(radius, length - radius)
        values_hw = values_hw.take(inside, axis=axis)
    return values_hw
