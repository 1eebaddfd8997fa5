"""`distgen bench data` measures both sides and says what it measured."""

from __future__ import annotations

import json

from distgen.bench.data import bench_data


def test_the_headline_is_the_ratio_of_its_parts() -> None:
    told: list[str] = []
    result = bench_data(
        jpegs=32, pngs=64, batch_size=8, threads=1, rounds=1, round_s=0.1, on_progress=told.append
    )
    assert json.loads(json.dumps(result)) == result
    assert next(iter(result)) == "ratio"
    assert result["ratio"] == result["jpeg_256_ratio"]
    for kind, count in (("jpeg_256", 32), ("png_28", 64)):
        assert result[f"{kind}_pictures"] == count
        parts = (result[f"{kind}_{side}_images_per_s"] for side in ("stream", "bare"))
        ours, bare = parts
        assert abs(result[f"{kind}_ratio"] - ours / bare) < 1e-9
    assert len(told) == 4
