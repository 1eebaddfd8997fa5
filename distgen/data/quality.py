"""How well an order mixes: figures of a sequence of samples, whoever made it."""

from __future__ import annotations

import numpy as np

BINS = 16


def adjacent_correlation(indices: np.ndarray) -> float:
    """Pearson's correlation between samples and their successors, by their places in the set.

    0 for a uniform permutation, near 1 where neighbours in the set come one after the other.

    Args:
        indices: Places of samples in the set, in the order in which they come; int64 [n], n > 1.
    """
    before, after = indices[:-1].astype(np.float64), indices[1:].astype(np.float64)
    before -= before.mean()
    after -= after.mean()
    scale = float(np.sqrt((before**2).sum() * (after**2).sum()))
    return float((before * after).sum()) / scale if scale else 0.0


def chi_squared_of_positions(indices: np.ndarray, num_samples: int, bins: int = BINS) -> float:
    """Chi-squared, per degree of freedom, of when samples come against where they lie.

    1 for a uniform permutation; the more of a part of the set comes in one part of the epoch, the
    larger. An order that moves shards as a whole has about the samples that move together.

    Args:
        indices: Samples in the order in which they come, all of an epoch or parts that are spread
            evenly over it; int64 [n].
        num_samples: Samples of the set.
        bins: Equal parts of the set, and of `indices`.
    """
    count = len(indices)
    place = indices * bins // num_samples
    time = np.arange(count, dtype=np.int64) * bins // count
    table = np.bincount(time * bins + place, minlength=bins * bins).reshape(bins, bins)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / count
    off = np.divide(
        (table - expected) ** 2, expected, where=expected > 0, out=np.zeros((bins, bins))
    )
    return float(off.sum()) / (bins - 1) ** 2


def shards_per_batch(indices: np.ndarray, shard_ends: np.ndarray, batch_size: int) -> float:
    """Mean number of shards from which the samples of a batch come.

    Args:
        indices: Places of samples in the set, int64 [n]; what does not fill a batch is left out.
        shard_ends: Index behind the last sample of every shard, int64 [shards].
        batch_size: Samples of a batch, at most n.
    """
    shards = np.searchsorted(shard_ends, indices, side="right")
    batches = shards[: len(shards) // batch_size * batch_size].reshape(-1, batch_size)
    return float(np.mean([len(np.unique(batch)) for batch in batches]))
