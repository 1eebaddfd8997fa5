"""What ranks compute together once, and rank 0 remembers for the next evaluation."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from distgen.metrics.cache import ArrayCache
from distgen.metrics.ranks import Ranks


def remembered(
    key: str, compute: Callable[[], np.ndarray | None], ranks: Ranks, cache: ArrayCache | None
) -> np.ndarray:
    """The array under `key`, on every rank: rank 0's own, else what all ranks compute together.

    Collective. Caches of other ranks are not asked: their disks may hold other things.

    Args:
        key: Names everything that the array depends on.
        compute: Called on every rank or on none; what rank 0 gives counts, others may give None.
        ranks: Who computes.
        cache: Rank 0's; None on all ranks: nothing is remembered.
    """
    if cache is not None:
        known = cache.get(key) if ranks.world.is_main else None
        shared = share_array(known, ranks)
        if shared is not None:
            return shared
    computed = compute()
    if cache is not None and ranks.world.is_main and computed is not None:
        cache.put(key, computed)
    result = share_array(computed, ranks)
    assert result is not None  # noqa: S101 - rank 0's compute gives an array
    return result


def share_array(array: np.ndarray | None, ranks: Ranks) -> np.ndarray | None:
    """Rank 0's array, or None where it has none, on every rank."""
    if ranks.world.size == 1:
        return array
    buffer = io.BytesIO()
    if array is not None and ranks.world.is_main:
        np.save(buffer, array, allow_pickle=False)
    data = ranks.share(buffer.getvalue())
    if not data:
        return None
    shared: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return shared
