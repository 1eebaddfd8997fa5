"""Kernel distance between two sets of features (KID, Binkowski et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distgen.core.seeding import derive

BLOCK_PICTURES = 1_000
"""Pictures of each set in a block, at most, as in the paper."""
LEAST_BLOCKS = 5
"""Blocks are made smaller before there are fewer of them."""


@dataclass(frozen=True)
class KernelEstimate:
    """The mean over blocks of the squared maximum mean discrepancy."""

    distance: float
    """The mean. Unbiased, so that sets of one distribution come out on either side of zero."""
    standard_error: float
    """Standard error of the mean; not a number where there is one block only."""
    blocks: int
    """How many pairs of blocks it is the mean of; no picture is in two."""
    block_pictures: int
    """Pictures of each set in a block."""

    def to_row(self) -> np.ndarray:
        """The figures in the order of their fields, float64 `[4]`."""
        return np.array(
            [self.distance, self.standard_error, self.blocks, self.block_pictures],
            dtype=np.float64,
        )

    @classmethod
    def from_row(cls, row: np.ndarray) -> KernelEstimate:
        """The estimate that `to_row` gave."""
        return cls(float(row[0]), float(row[1]), int(row[2]), int(row[3]))


def kernel_distance(a_nd: np.ndarray, b_md: np.ndarray) -> KernelEstimate:
    """The kernel distance of two sets of at least two features each, in float64.

    The sets are put into an order of their own that never changes and cut into blocks side by
    side. Blocks share no picture, which makes their estimates independent and the standard error
    that of the mean; subsets drawn again and again, as other tools take them, would make it look
    smaller than it is.
    """
    count = min(len(a_nd), len(b_md))
    size = max(2, min(BLOCK_PICTURES, count // LEAST_BLOCKS))
    blocks = count // size
    # Both sets may be sorted by class, and alike: each gets its own order.
    orders = [
        np.random.default_rng(derive(0, "kernel distance", side)).permutation(len(rows))
        for side, rows in (("a", a_nd), ("b", b_md))
    ]
    estimates = [
        squared_mmd(
            a_nd[orders[0][start : start + size]].astype(np.float64),
            b_md[orders[1][start : start + size]].astype(np.float64),
        )
        for start in range(0, blocks * size, size)
    ]
    error = float(np.std(estimates, ddof=1)) / np.sqrt(blocks) if blocks > 1 else float("nan")
    return KernelEstimate(float(np.mean(estimates)), float(error), blocks, size)


def squared_mmd(a_nd: np.ndarray, b_md: np.ndarray) -> float:
    """The unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 3)."""
    n, m = len(a_nd), len(b_md)
    within_a = _kernel(a_nd, a_nd)
    within_b = _kernel(b_md, b_md)
    # A feature's kernel with itself is no sample of two independent ones.
    mean_a = (within_a.sum() - np.trace(within_a)) / (n * (n - 1))
    mean_b = (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    return float(mean_a + mean_b - 2.0 * _kernel(a_nd, b_md).mean())


def _kernel(a_nd: np.ndarray, b_md: np.ndarray) -> np.ndarray:
    """(a b / d + 1)^3 of all pairs, `[n, m]`."""
    inner: np.ndarray = a_nd @ b_md.T / a_nd.shape[1] + 1.0
    cubes: np.ndarray = inner * inner * inner
    return cubes
