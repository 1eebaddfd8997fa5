"""What can be done to standard normal latents of any family: kept near the middle, and blended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Latents = NDArray[np.float32]
Shares = NDArray[np.float64]


def truncate(latents_nd: Latents, bound: float) -> Latents:
    """Standard normal numbers brought into [-bound, bound], distributed as if cut there.

    Each is mapped through the cut distribution's quantiles (Brock et al. 2019 redraw instead), so
    that a picture changes smoothly with the bound and keeps its identity.

    Args:
        latents_nd: Latents, of any shape.
        bound: Above zero.
    """
    low = ndtr(-bound)
    cut = ndtri(low + ndtr(latents_nd.astype(np.float64)) * (1 - 2 * low))
    # Far out, normal numbers' shares round to one, whose quantile has no end.
    return np.asarray(np.clip(cut, -bound, bound), dtype=np.float32)


def interpolate(first_d: Latents, second_d: Latents, steps: int) -> Latents:
    """Latents `[steps, d]` on the arc from one to another, both ends included (see `between`).

    Args:
        first_d: Where it begins, `[d]`.
        second_d: Where it ends, `[d]`.
        steps: At least 2.
    """
    return between(first_d, second_d, np.linspace(0.0, 1.0, steps))


def between(first_d: Latents, second_d: Latents, shares: Sequence[float] | Shares) -> Latents:
    """Latents `[n, d]` on the arc from one to another; both ends come back bit for bit.

    A straight line between two normal vectors leads through lengths that the prior hardly ever
    has; the arc (Shoemake 1985, White 2016) does not.

    Args:
        first_d: Where it begins, `[d]`.
        second_d: Where it ends, `[d]`.
        shares: Of the way, from 0 to 1, for each row.
    """
    first, second = first_d.astype(np.float64), second_d.astype(np.float64)
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    cosine = float(first @ second) / lengths if lengths else 1.0
    angle = float(np.arccos(np.clip(cosine, -1.0, 1.0)))
    shares_n1 = np.asarray(shares, np.float64)[:, None]
    if np.sin(angle) < 1e-6:  # there is no arc, or there are many
        blended = (1.0 - shares_n1) * first + shares_n1 * second
    else:
        weights = np.sin((1.0 - shares_n1) * angle), np.sin(shares_n1 * angle)
        blended = (weights[0] * first + weights[1] * second) / np.sin(angle)
    return np.asarray(blended, dtype=np.float32)
