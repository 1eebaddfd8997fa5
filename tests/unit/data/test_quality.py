"""How well orders mix, by pure functions of a sequence, and beside others' shuffles."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from distgen.bench.order import bench_order, uneven
from distgen.bench.shuffle import bench_shuffle, buffered
from distgen.cli.bench import app
from distgen.core.errors import UsageError
from distgen.data.quality import (
    adjacent_correlation,
    chi_squared_of_positions,
    shards_per_batch,
)


def test_correlation_is_that_of_neighbours() -> None:
    assert adjacent_correlation(np.arange(1000)) == pytest.approx(1)
    assert adjacent_correlation(np.arange(1000)[::-1]) == pytest.approx(1)
    uniform = np.random.default_rng(0).permutation(20_000)
    assert abs(adjacent_correlation(uniform)) < 0.03
    assert adjacent_correlation(uniform) == pytest.approx(
        stats.pearsonr(uniform[:-1], uniform[1:]).statistic
    )
    assert adjacent_correlation(np.array([3, 3, 3])) == 0


def test_chi_squared_is_one_for_uniform_and_counts_what_moves_together() -> None:
    random = np.random.default_rng(0)
    uniform = [chi_squared_of_positions(random.permutation(25_600), 25_600) for _ in range(20)]
    assert np.mean(uniform) == pytest.approx(1, abs=0.1)
    # All of a part of the set in one part of the epoch: n (bins - 1) / (bins - 1) ** 2.
    assert chi_squared_of_positions(np.arange(25_600), 25_600) == pytest.approx(25_600 / 15)
    shards = random.permutation(2560)[:, None] * 10 + np.arange(10)
    assert chi_squared_of_positions(shards.ravel(), 25_600) == pytest.approx(10, abs=2)
    table = np.histogram2d(np.arange(25_600), uniform_one := random.permutation(25_600), bins=16)[0]
    expected = stats.chi2_contingency(table, correction=False).statistic / 15**2
    assert chi_squared_of_positions(uniform_one, 25_600) == pytest.approx(expected)


def test_shards_of_a_batch_are_counted() -> None:
    ends = np.array([4, 8, 12])
    assert shards_per_batch(np.arange(12), ends, 4) == 1
    assert shards_per_batch(np.array([0, 4, 8, 1, 2, 11, 3]), ends, 3) == 2.5


def test_the_buffer_is_an_epoch() -> None:
    ends = np.array([30, 40, 100])
    assert sorted(buffered(ends, 16, seed=1).tolist()) == list(range(100))
    assert buffered(ends, 16, seed=1).tolist() != buffered(ends, 16, seed=2).tolist()


def test_our_window_mixes_better_than_a_buffer_of_its_size() -> None:
    found = bench_shuffle(samples=60_000, shard_samples=500, window=4096, lanes=64)
    assert abs(found["distgen_adjacent_correlation"]) < 0.03
    assert found["uniform_chi_squared"] == pytest.approx(1, abs=0.3)
    assert found["ratio"] > 1.3
    assert found["distgen_shards_per_batch"] > 1.2 * found["webdataset_shards_per_batch"]


def test_uneven_shards_add_up() -> None:
    for samples, shards in ((10, 10), (1000, 7), (10**6 + 3, 1000)):
        counts = uneven(samples, shards)
        assert (sum(counts), len(counts)) == (samples, shards)
        assert min(counts) >= 1
    assert len(set(uneven(10**6, 100))) > 10


def test_a_billion_samples_in_a_million_shards_take_less_than_300_mb() -> None:
    found = bench_order(rounds=1)
    assert (found["samples"], found["shards"]) == (10**9, 10**6)
    assert 50 < found["peak_mb"] < 300
    assert found["ratio"] == min(1 / found["first_batch_s"], 300 / found["peak_mb"])
    assert found["next_batch_s"] < found["first_batch_s"]


def test_the_command_prints_the_ratio_first() -> None:
    arguments = ["order", "--samples", "1000", "--shards", "10", "--ranks", "4"]
    report = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert next(iter(report)) == "ratio"
    with pytest.raises(UsageError, match="10 samples do not fill 20"):
        bench_order(samples=10, shards=20)
