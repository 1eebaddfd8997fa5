"""What sums over ranks cost: the ring's formula, by hand and by its properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.bench.scale.links import (
    Cluster,
    Cost,
    Link,
    Memory,
    all_reduce,
    parse_rate,
    ring,
    shared_mean,
)
from distgen.core.errors import UsageError

SLOW = Link(latency_s=1e-4, bytes_per_s=1e9)
FAST = Link(latency_s=1e-5, bytes_per_s=1e11)

links = st.builds(Link, st.floats(1e-6, 1e-2), st.floats(1e6, 1e12))
sizes = st.integers(1, 10**10)


def test_a_ring_of_four_moves_a_vector_one_and_a_half_times():
    # 2 (4 - 1) = 6 messages of 100 MB / 4 each: 6 * 25 MB at 1 GB/s, and 6 latencies.
    assert ring(100e6, 4, SLOW) == Cost(pytest.approx(6e-4), pytest.approx(0.150))


def test_a_ring_of_two_is_an_exchange_of_halves():
    assert ring(8e6, 2, SLOW).total_s == pytest.approx(2e-4 + 2 * 4e6 / 1e9)


def test_hosts_of_eight_sum_inside_and_then_between_hosts():
    cluster = Cluster(per_host=8, inside=FAST, between=SLOW)
    cost = all_reduce(100e6, 32, cluster)
    # Inside: 14 messages of 12.5 MB at 100 GB/s; between 4 hosts: 6 messages of 25 MB at 1 GB/s.
    assert cost.bandwidth_s == pytest.approx(14 * 12.5e6 / 1e11 + 0.150)
    assert cost.latency_s == pytest.approx(14e-5 + 6e-4)


def test_ranks_of_one_host_never_touch_the_network():
    slower = Cluster(8, FAST, Link(10.0, 1.0))
    assert all_reduce(1e6, 8, slower) == ring(1e6, 8, FAST)


def test_hosts_of_one_rank_never_touch_what_is_inside():
    slower = Cluster(1, Link(10.0, 1.0), SLOW)
    assert all_reduce(1e6, 8, slower) == ring(1e6, 8, SLOW)


def test_a_mean_in_memory_is_laid_down_once_and_added_up_one_by_one():
    memory = Memory(meeting_s=1e-4, bytes_per_s=1e9)
    # 10 MB are read and written, and three times two are read and one is written; four ranks meet
    # in two rounds.
    assert shared_mean(10e6, 4, memory) == Cost(pytest.approx(2e-4), pytest.approx(0.110))
    assert shared_mean(10e6, 3, memory).latency_s == pytest.approx(2e-4)
    assert shared_mean(10e6, 2, memory).latency_s == pytest.approx(1e-4)
    assert shared_mean(10e6, 1, memory) == Cost()


@given(size=sizes, inside=links, between=links, per_host=st.integers(1, 16))
def test_one_rank_has_nobody_to_talk_to(size, inside, between, per_host):
    assert all_reduce(size, 1, Cluster(per_host, inside, between)) == Cost()


@given(size=sizes, ranks=st.integers(2, 4096), link=links, factor=st.floats(1.01, 1000))
def test_more_bandwidth_and_less_latency_never_cost_more(size, ranks, link, factor):
    base = ring(size, ranks, link)
    wider = ring(size, ranks, Link(link.latency_s, link.bytes_per_s * factor))
    nearer = ring(size, ranks, Link(link.latency_s / factor, link.bytes_per_s))
    assert wider.total_s < base.total_s
    assert nearer.total_s < base.total_s
    assert wider.latency_s == base.latency_s
    assert nearer.bandwidth_s == base.bandwidth_s


@given(size=sizes, ranks=st.integers(2, 4096), link=links)
def test_a_ring_moves_less_than_twice_the_bytes_on_any_number_of_ranks(size, ranks, link):
    moved = ring(size, ranks, link).bandwidth_s * link.bytes_per_s / size
    assert 1 - 1e-9 <= moved < 2


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("100Gb", 12.5e9),
        ("100Gbps", 12.5e9),
        ("100 Gbit/s", 12.5e9),
        ("12.5GB", 12.5e9),
        ("800 MB/s", 8e8),
        ("1Tb", 1.25e11),
        ("64kb", 8e3),
    ],
)
def test_bits_and_bytes_are_told_apart(text, bytes_per_s):
    assert parse_rate(text) == pytest.approx(bytes_per_s)


@pytest.mark.parametrize("text", ["100", "fast", "100Xb", "0Gb", "-1Gb", "1e3Gb", "", "Gb", "1Gib"])
def test_what_is_no_bandwidth_is_refused_with_examples(text):
    with pytest.raises(UsageError, match="no bandwidth") as caught:
        parse_rate(text)
    assert "100Gb" in str(caught.value)


@pytest.mark.parametrize(("per_host", "cores"), [(0, None), (-1, None), (2, 0)])
def test_hosts_without_workers_or_cores_are_refused(per_host, cores):
    with pytest.raises(UsageError):
        Cluster(per_host, FAST, SLOW, cores)
