"""What the order of a very large set costs a rank: time and memory until its first batch.

The shards are uneven, and the batch is one from the middle of the second epoch, as after a resume.
Each measurement is a fresh process, whose memory at its peak includes Python and its libraries.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.data.streaming.order import Order

LIMIT_S = 1.0
LIMIT_MB = 300.0


def bench_order(
    *,
    samples: int = 10**9,
    shards: int = 10**6,
    ranks: int = 1024,
    batch_size: int = 65_536,
    rounds: int = 3,
) -> dict[str, Any]:
    """Seconds and memory until a rank knows the samples of its first batch.

    Args:
        samples: Samples of the set.
        shards: Its shards, of uneven sizes.
        ranks: Ranks that share a batch.
        batch_size: Images of a global batch.
        rounds: Fresh processes; the figures are medians, the memory the largest.

    Returns:
        `ratio`: how often both fit into their limits of 1 s and 300 MB; its parts beside it.

    Raises:
        UsageError: There are more shards than samples.
    """
    if shards > samples:
        raise UsageError(f"{samples} samples do not fill {shards} shards.")
    command = [sys.executable, "-m", "distgen.bench.order"]
    command += [str(number) for number in (samples, shards, ranks, batch_size)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603
        for _ in range(rounds)
    ]
    first_s = statistics.median(run["first_batch_s"] for run in runs)
    peak_mb = max(run["peak_mb"] for run in runs)
    return {
        "ratio": min(LIMIT_S / first_s, LIMIT_MB / peak_mb),
        "first_batch_s": first_s,
        "next_batch_s": statistics.median(run["next_batch_s"] for run in runs),
        "next_epoch_s": statistics.median(run["next_epoch_s"] for run in runs),
        "peak_mb": peak_mb,
        "samples": samples,
        "shards": shards,
        "ranks": ranks,
        "batch_size": batch_size,
        "rounds": rounds,
    }


def uneven(samples: int, shards: int) -> tuple[int, ...]:
    """Samples of each of `shards` shards, which differ by up to a fifth and add up to `samples`."""
    mean = samples // shards
    spread = np.random.default_rng(0).integers(-(mean // 10), mean // 10 + 1, shards)
    counts = mean + spread
    wrong = samples - int(counts.sum())
    share, rest = divmod(wrong, shards)
    counts += share
    counts[:rest] += 1
    return tuple(counts.tolist())


def _measure(samples: int, shards: int, ranks: int, batch_size: int) -> dict[str, float]:
    counts = uneven(samples, shards)
    world = World(ranks // 2, ranks)
    begin = time.perf_counter()
    order = Order(counts, "0123456789abcdef")
    start = (samples + samples // 2) // batch_size * batch_size
    order.batch(start, batch_size, world)
    first = time.perf_counter()
    order.batch(start + batch_size, batch_size, world)
    second = time.perf_counter()
    order.batch(2 * samples, batch_size, world)
    third = time.perf_counter()
    return {
        "first_batch_s": first - begin,
        "next_batch_s": second - first,
        "next_epoch_s": third - second,
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    """The most memory that this process has had; not what its parent had, as getrusage says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status does not say how much memory was used")


if __name__ == "__main__":
    print(json.dumps(_measure(*(int(text) for text in sys.argv[1:]))))
