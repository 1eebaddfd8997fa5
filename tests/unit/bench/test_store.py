"""`distgen bench store` measures a store against the disk."""

from __future__ import annotations

import json

from distgen.bench.store import bench_store


def test_ratio_is_of_both_sides_of_one_run() -> None:
    result = bench_store(pictures=512, latency_s=0.001, threads=1, rounds=1)
    assert json.loads(json.dumps(result)) == result
    ours, disk = result["store_images_per_s"], result["disk_images_per_s"]
    assert abs(result["ratio"] - ours / disk) < 1e-9
    assert result["store_first_batch_s"] > 2 * 0.001
