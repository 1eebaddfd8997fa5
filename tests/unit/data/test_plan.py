"""The plan's arithmetic is what the order and the pages do."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from typer.testing import CliRunner

from distgen.cli.data import app
from distgen.core.assumptions import assuming
from distgen.core.errors import UsageError
from distgen.core.storage import locate
from distgen.core.world import World
from distgen.data.index import Manifest, ShardSet
from distgen.data.plan import Costs, Workload, plan, reads, sharing_advice
from distgen.data.streaming.mixed import Pictures, mix
from distgen.data.streaming.order import Order
from distgen.data.streaming.pages import PAGE_BYTES

from .conftest import Made
from .test_data_commands import code_and_text


def simulated(work: Workload, rank: int) -> tuple[float, int]:
    """Bytes of pages that a rank fetches for each byte that it uses, and lanes that it reads of."""
    order = Order((work.samples,), "f", lanes=work.lanes, shuffle_window=work.shuffle_window)
    block = work.lanes * (work.shuffle_window // work.lanes)
    positions = np.concatenate(
        [
            np.arange(start + rank, start + work.batch_size, work.ranks)
            for start in range(0, work.samples - work.batch_size, work.batch_size)
        ]
    )
    samples = order.indices(positions)
    assert (
        order.batch(0, work.batch_size, World(rank, work.ranks))[0]
        == samples[: -(-(work.batch_size - rank) // work.ranks)]
    ).all()
    fetched, kept = 0, set()
    for number in np.unique(positions // block):
        begins = samples[positions // block == number] * work.sample_bytes
        last = (begins + work.sample_bytes - 1) // PAGE_BYTES
        pages = {
            page
            for a, b in zip(begins // PAGE_BYTES, last, strict=True)
            for page in range(a, b + 1)
        }
        fetched += len(pages - kept)
        kept = pages
    lanes = len(np.unique(positions % work.lanes))
    return fetched * PAGE_BYTES / (len(samples) * work.sample_bytes), lanes


@pytest.mark.parametrize(
    ("ranks", "batch_size", "lanes"),
    [
        (1, 256, 16),
        (4, 256, 16),
        (16, 256, 16),
        (64, 256, 16),
        (5, 256, 16),
        (3, 250, 16),
        (2, 2, 8),
    ],
)
@pytest.mark.parametrize("sample_bytes", [20_000, 300_000])
def test_reads_are_those_of_the_order(
    ranks: int, batch_size: int, lanes: int, sample_bytes: int
) -> None:
    work = Workload(
        200_000, 1, ranks, sample_bytes, batch_size, lanes=lanes, shuffle_window=512 * lanes
    )
    amplification, lanes_read = simulated(work, ranks // 2)
    estimate = reads(work)
    assert estimate.lanes == lanes_read
    assert estimate.amplification == pytest.approx(amplification, rel=0.1)


def test_lanes_of_a_rank_are_counted_where_ranks_do_not_divide_a_batch() -> None:
    work = Workload(200_000, 1, 8, 20_000, 12, lanes=16, shuffle_window=8192)
    assert reads(work).lanes == simulated(work, 5)[1]


def test_a_billion_samples_on_a_thousand_ranks_ask_for_more_lanes_and_fewer_shards() -> None:
    planned = plan(Workload(10**9, 10**6, 1024))
    assert planned.memory_total_bytes > 8 << 30
    assert planned.amplification > 10
    fewer, lanes = planned.advice
    assert "74,506 shards" in fewer
    assert "lanes=1024 and shuffle_window=262144" in lanes
    better = plan(Workload(10**9, 74_506, 1024, lanes=1024, shuffle_window=262_144))
    assert better.advice == ()
    assert better.amplification == pytest.approx(1)
    assert better.memory_total_bytes < 1.1 * (1 << 30)
    assert better.start_up_total_s < 6
    assert better.egress_bytes_per_epoch == pytest.approx(2e13)
    assert better.bytes_per_s == pytest.approx(2e7)
    assert abs(better.quality["adjacent_correlation"]) < 0.02
    assert better.quality["shards_per_batch"] > 900


def test_parts_add_up_and_follow_their_costs() -> None:
    work = Workload(10**6, 100, 8, batch_size=512)
    planned = plan(work)
    assert planned.start_up_total_s == sum(planned.start_up_s.values())
    slower = plan(work, assuming(Costs(), ["latency_s=1", "order_memory=1e6"]))
    assert slower.start_up_total_s > planned.start_up_total_s + 1
    assert slower.memory_bytes["order"] == 1e8
    assert planned.costs == Costs()


def test_a_set_that_fits_the_window_is_one_lane() -> None:
    assert reads(Workload(1000, 1, 2, batch_size=64)).lanes == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples", "1.5", "--shards", "1"], "'1.5' is no number"),
        (["--samples", "many", "--shards", "1"], "'many' is no number"),
        (["--samples", "10", "--shards", "20"], "10 samples do not fill 20 shards"),
        (["--samples", "10", "--shards", "1", "--batch-size", "-1"], "batch_size is -1"),
        (["--samples", "1e6", "--shards", "1", "--ranks", "9", "--batch-size", "8"], "9 ranks"),
        (["--samples", "10", "--shards", "1", "--assume", "latency=1"], "'latency_s'"),
        (["--samples", "10", "--shards", "1", "--assume", "latency_s=x"], "no value for latency_s"),
        (["--samples", "10", "--shards", "1", "--mode", "CMYK"], "choices: L, RGB"),
    ],
)
def test_numbers_that_do_not_go_together_are_named(arguments: list[str], words: str) -> None:
    code, text = code_and_text(CliRunner().invoke(app, ["plan", *arguments]))
    assert code == 2
    assert words in text


def test_the_command_prints_a_table_or_json() -> None:
    arguments = ["plan", "--samples", "1e6", "--shards", "1e3", "--ranks", "96"]
    shown = CliRunner().invoke(app, arguments).output
    for words in ("first batch after", "memory", "egress", "shards in a batch", "lanes="):
        assert words in shown
    report = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert report["workload"]["batch_size"] == 64 * 96
    assert report["costs"]["latency_s"] == 0.05
    assert report["memory_total_bytes"] == pytest.approx(sum(report["memory_bytes"].values()))


def test_a_workload_says_which_number_is_wrong() -> None:
    with pytest.raises(UsageError, match="lanes is 0"):
        Workload(10, 1, 1, lanes=0)


def large(manifest: Manifest) -> Manifest:
    """The same with a million samples of 20 kB."""
    size = {"samples": 500_000, "bytes": 10_000_000_000}
    shards = tuple(shard.model_copy(update=size) for shard in manifest.shards[:2])
    return manifest.model_copy(update={"shards": shards, "num_samples": 1_000_000})


def test_ranks_that_would_share_lanes_of_a_store_are_told_of_better_ones(
    make: Callable[..., Made],
) -> None:
    made = make(500, 500)
    remote = ShardSet(locate("s3://pictures/set?region=eu-west-1"), large(made.shard_set.manifest))

    def advice(ranks: int, pictures: Pictures = remote) -> str | None:
        return sharing_advice(pictures, ranks=ranks, batch_size=960, lanes=64, shuffle_window=640)

    assert advice(64) is None
    assert advice(48, made.shard_set) is None, "what lies here costs nothing to read"
    assert advice(48, mix([(remote, 1.0)])) is None
    text = advice(48)
    assert text is not None
    assert "lanes=192 and shuffle_window=1920 it would be 1.0" in text
    lanes = Workload(1_000_000, 2, 48, batch_size=960, lanes=192, shuffle_window=1920)
    assert reads(lanes).amplification == pytest.approx(1.0)
