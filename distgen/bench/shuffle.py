"""How well orders mix, side by side: ours, webdataset's shuffle buffer, a uniform permutation.

All get the same shards, in a new order every epoch, and the same number of samples to shuffle
among: ours as its window, webdataset as the size of its buffer, which is full before it gives any.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from distgen.data.quality import (
    adjacent_correlation,
    chi_squared_of_positions,
    shards_per_batch,
)
from distgen.data.streaming.order import Order

Shuffle = Callable[[int], np.ndarray]
"""The samples of an epoch, in the order in which they come."""


def bench_shuffle(
    *,
    samples: int = 500_000,
    shard_samples: int = 1000,
    window: int = 16_384,
    lanes: int = 64,
    batch_size: int = 256,
    epochs: int = 3,
) -> dict[str, Any]:
    """Figures of `data.quality` for each order, means over epochs.

    Args:
        samples: Samples of the set.
        shard_samples: Samples of each shard.
        window: Samples to shuffle among.
        lanes: Lanes of our order.
        batch_size: Samples of a batch.
        epochs: Epochs to look at.

    Returns:
        `ratio`: webdataset's chi-squared over ours; beside it the figures of each.
    """
    counts = [min(shard_samples, samples - at) for at in range(0, samples, shard_samples)]
    ends = np.cumsum(counts)
    order = Order(tuple(counts), "bench", lanes=lanes, shuffle_window=window)
    orders: dict[str, Shuffle] = {
        "distgen": lambda epoch: order.indices(np.arange(samples) + epoch * samples),
        "webdataset": lambda epoch: buffered(ends, window, epoch),
        "uniform": lambda epoch: np.random.default_rng(epoch).permutation(samples),
    }
    results: dict[str, Any] = {"ratio": 0.0}
    for name, shuffle in orders.items():
        sequences = [shuffle(epoch) for epoch in range(epochs)]
        results |= {
            f"{name}_adjacent_correlation": statistics.mean(map(adjacent_correlation, sequences)),
            f"{name}_chi_squared": statistics.mean(
                chi_squared_of_positions(sequence, samples) for sequence in sequences
            ),
            f"{name}_shards_per_batch": statistics.mean(
                shards_per_batch(sequence, ends, batch_size) for sequence in sequences
            ),
        }
    results["ratio"] = results["webdataset_chi_squared"] / results["distgen_chi_squared"]
    return results | {
        "samples": samples,
        "shards": len(counts),
        "window": window,
        "lanes": lanes,
        "batch_size": batch_size,
        "epochs": epochs,
    }


def buffered(shard_ends: np.ndarray, window: int, seed: int) -> np.ndarray:
    """An epoch through webdataset's shuffle buffer, with the shards shuffled before.

    Args:
        shard_ends: Index behind the last sample of every shard, int64 [shards].
        window: Samples that the buffer holds, and waits for before it gives the first.
        seed: Of both shuffles.
    """
    import webdataset

    random_bits = random.Random(seed)
    starts = np.concatenate(([0], shard_ends[:-1])).tolist()
    shards = list(zip(starts, shard_ends.tolist(), strict=True))
    random_bits.shuffle(shards)
    samples = (index for start, end in shards for index in range(start, end))
    shuffle = webdataset.shuffle(window, initial=window, rng=random_bits)
    return np.fromiter(shuffle(samples), np.int64, int(shard_ends[-1]))
