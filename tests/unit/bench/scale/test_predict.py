"""The model of a step: by hand, and what must hold whatever the numbers are."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.bench.scale.compute import Compute
from distgen.bench.scale.links import Cluster, Link, Memory, all_reduce
from distgen.bench.scale.predict import (
    CHECKPOINTS,
    CORES,
    NOISE,
    STORE,
    Assumptions,
    Work,
    predict,
    scaled,
)
from distgen.core.errors import UsageError
from distgen.training.sizes import Sums

STILL = Assumptions(jitter=0.0)
LINK = Link(latency_s=0.0, bytes_per_s=1e9)
HOSTS = Cluster(per_host=1, inside=LINK, between=LINK)
# 10 ms, and 1 ms for each image; the last 60 % of it are backward.
COMPUTE = Compute(step_s=0.010, image_s=0.001, backward={"model": 0.6})


def work(**changes: object) -> Work:
    defaults = Work(batch_size=64, images=6400, sums=(Sums("model", (10_000_000,)),))
    return replace(defaults, **changes)


def test_a_step_on_two_hosts_by_hand():
    row = predict(work(), COMPUTE, HOSTS, 2, assumptions=STILL)
    # 10 ms + 32 images, then one bucket of 10 MB that waits for the end of backward: 10 ms more.
    assert row.step_s == pytest.approx(0.010 + 0.032 + 0.010)
    assert row.exposed_s == pytest.approx(0.010)
    assert row.exchange_s == pytest.approx(0.010)
    assert row.images_per_s == pytest.approx(64 / 0.052)
    assert row.efficiency == pytest.approx((0.074 / 0.052) / 2)
    assert row.to_end_s == pytest.approx(100 * 0.052)
    assert row.bottleneck == "compute"


def test_early_buckets_are_summed_beside_backward():
    two = work(sums=(Sums("model", (5_000_000, 5_000_000)),))
    row = predict(two, COMPUTE, HOSTS, 2, assumptions=STILL)
    # Backward takes 25 ms, so the first half's 5 ms are over before the second half is there.
    assert row.exchange_s == pytest.approx(0.010)
    assert row.exposed_s == pytest.approx(0.005)


def test_a_slow_network_cannot_hide_behind_backward():
    slow = replace(HOSTS, between=Link(0.0, 1e8))
    two = work(sums=(Sums("model", (5_000_000, 5_000_000)),))
    row = predict(two, COMPUTE, slow, 2, assumptions=STILL)
    # Begins after half of 0.6 * 42 ms, takes 100 ms, and is waited for from the end of backward.
    assert row.exposed_s == pytest.approx(0.100 - 0.5 * 0.6 * 0.042)
    assert row.bottleneck == "network bandwidth"


def test_where_nothing_goes_on_beside_backward_all_is_waited_for():
    two = work(sums=(Sums("model", (5_000_000, 5_000_000)),))
    row = predict(two, replace(COMPUTE, overlaps=False), HOSTS, 2, assumptions=STILL)
    assert row.exposed_s == pytest.approx(row.exchange_s)


def test_parts_of_a_divided_step_overlap_with_the_last_backward_only():
    two = work(sums=(Sums("model", (5_000_000, 5_000_000)),), accumulate=2)
    slow = replace(HOSTS, between=Link(0.0, 1e8))
    row = predict(two, COMPUTE, slow, 2, assumptions=STILL)
    assert row.exposed_s == pytest.approx(0.100 - 0.25 * 0.6 * 0.042)


IN_MEMORY = Cluster(per_host=16, inside=LINK, between=LINK, memory=Memory(1e-3, 1e9))


@pytest.mark.parametrize(("ranks", "taken"), [(2, 0.001 + 0.050), (4, 0.002 + 0.110)])
def test_what_is_averaged_in_memory_begins_when_backward_ends(ranks, taken):
    two = work(sums=(Sums("model", (5_000_000, 5_000_000)),))
    row = predict(two, COMPUTE, IN_MEMORY, ranks, assumptions=STILL)
    assert row.exposed_s == pytest.approx(taken)
    assert row.exchange_s == pytest.approx(taken)


@pytest.mark.parametrize(
    ("ranks", "cluster", "size"),
    [
        (16, IN_MEMORY, 10**7),
        (2, IN_MEMORY, 2**28 + 1),
        (4, replace(IN_MEMORY, per_host=2), 10**7),
        (2, replace(IN_MEMORY, memory=None), 10**7),
    ],
    ids=["many ranks", "large networks", "several hosts", "no memory to share"],
)
def test_others_sum_in_rings(ranks, cluster, size):
    sums = work(sums=(Sums("model", (size,)),))
    row = predict(sums, COMPUTE, cluster, ranks, assumptions=STILL)
    assert row.exposed_s == pytest.approx(all_reduce(size, ranks, cluster).total_s)


def test_ranks_that_share_a_core_copy_in_turns():
    busy = replace(COMPUTE, cpu_step_s=0.010, cpu_image_s=0.001, overlaps=False)
    crowded = replace(IN_MEMORY, cores=2)
    row = predict(work(), busy, crowded, 4, assumptions=STILL)
    assert row.exchange_s == pytest.approx(2 * (0.002 + 0.110))


def test_ranks_that_share_a_core_take_turns():
    busy = replace(COMPUTE, cpu_step_s=0.010, cpu_image_s=0.001, overlaps=False)
    crowded = Cluster(per_host=4, inside=LINK, between=LINK, cores=2)
    row = predict(work(sums=()), busy, crowded, 4, assumptions=STILL)
    assert row.step_s == pytest.approx(2 * 0.026)
    assert row.parts[CORES] == pytest.approx(0.026)
    enough = predict(work(sums=()), busy, replace(crowded, cores=4), 4, assumptions=STILL)
    assert enough.parts[CORES] == 0


@pytest.mark.parametrize(
    ("cpu", "cores", "turns"),
    [
        (1.0, 4, 1.0),
        (1.0, 3, 2.0),
        (1.1, 4, 1.1),  # a second thread that does little, as decoding is
        (1.1, 8, 1.0),
        (1.4, 16, 1.0),
        (2.4, 16, 1.0),
        (0.4, 3, 1.0),  # ranks that mostly wait
        (2.0, 8, 1.0),
        (2.0, 6, 2.0),  # eight threads: two cores have two
    ],
)
def test_four_ranks_take_as_long_as_the_fullest_core(cpu, cores, turns):
    busy = Compute(0.010, 0.001, cpu_step_s=cpu * 0.010, cpu_image_s=cpu * 0.001, overlaps=False)
    host = Cluster(per_host=4, inside=LINK, between=LINK, cores=cores)
    row = predict(work(sums=()), busy, host, 4, assumptions=STILL)
    assert row.step_s == pytest.approx(turns * 0.026)


def test_every_rank_draws_the_random_numbers_of_the_whole_batch():
    row = predict(work(sums=()), replace(COMPUTE, noise_s=1e-4), HOSTS, 4, assumptions=STILL)
    assert row.parts[NOISE] == pytest.approx(48e-4)


def test_the_slowest_of_many_is_waited_for():
    row = predict(work(sums=()), COMPUTE, HOSTS, 64, assumptions=Assumptions(jitter=0.1))
    assert row.step_s == pytest.approx(0.011 * (1 + 0.1 * math.sqrt(2 * math.log(64))))


def test_a_store_that_is_too_slow_is_the_bottleneck_unless_pictures_are_kept():
    read = work(sums=(), image_bytes=1e6)
    slow = predict(read, COMPUTE, HOSTS, 2, assumptions=STILL, store_bytes_per_s=1e8)
    assert slow.step_s == pytest.approx(0.64)
    assert slow.bottleneck == STORE
    assert slow.store_bytes_per_s == pytest.approx(1e8)
    kept = replace(read, cached=True)
    quick = predict(kept, COMPUTE, HOSTS, 2, assumptions=STILL, store_bytes_per_s=1e8)
    assert quick.step_s == pytest.approx(0.042)
    twice = predict(
        read, COMPUTE, HOSTS, 2, assumptions=STILL, store_bytes_per_s=1e8, amplification=lambda _: 2
    )
    assert twice.step_s == pytest.approx(1.28)


def test_a_checkpoint_costs_its_copy_and_what_it_waits_for_the_one_before():
    large = work(sums=(), checkpoint_bytes=4_000_000_000, checkpoint_every=6400)
    quick = Assumptions(jitter=0.0, copy_bytes_per_s=4e9, write_bytes_per_s=4e9)
    row = predict(large, COMPUTE, HOSTS, 1, assumptions=quick)
    assert row.parts[CHECKPOINTS] == pytest.approx(1.0 / 100)  # a second every 100 steps
    slow = replace(quick, write_bytes_per_s=4e8)  # 10 s, while 100 steps take 7.4 s
    assert predict(large, COMPUTE, HOSTS, 1, assumptions=slow).parts[CHECKPOINTS] == pytest.approx(
        (1.0 + 10.0 - 7.4) / 100
    )


def test_a_batch_that_grows_keeps_each_rank_busy():
    rows = [
        predict(scaled(work(), n, 32), COMPUTE, HOSTS, n, assumptions=STILL, alone=32)
        for n in (1, 2, 8)
    ]
    assert [row.rank_batch for row in rows] == [32, 32, 32]
    assert rows[0].efficiency == pytest.approx(1)
    assert rows[1].efficiency == pytest.approx(0.042 / 0.052)


def test_ranks_that_do_not_divide_the_batch_are_refused_with_those_that_do():
    with pytest.raises(UsageError, match="48 workers do not divide a batch of 64") as caught:
        predict(work(), COMPUTE, HOSTS, 48, assumptions=STILL)
    assert caught.value.remedy is not None
    assert "1, 2, 4, 8, 16, 32, 64" in caught.value.remedy
    assert "training.batch_size=48" in caught.value.remedy
    with pytest.raises(UsageError, match="in groups of 8") as caught:
        predict(work(unit=8), COMPUTE, HOSTS, 16, assumptions=STILL)
    assert "1, 2, 4, 8;" in str(caught.value.remedy)


computes = st.builds(
    Compute,
    step_s=st.floats(1e-4, 1),
    image_s=st.floats(1e-6, 0.1),
    noise_s=st.floats(0, 1e-4),
    cpu_step_s=st.floats(0, 2),
    cpu_image_s=st.floats(0, 0.1),
    backward=st.fixed_dictionaries({"model": st.floats(0, 0.9)}),
    overlaps=st.booleans(),
)
link = st.builds(Link, st.floats(1e-7, 1e-2), st.floats(1e6, 1e12))
memory = st.builds(Memory, st.floats(1e-6, 1e-2), st.floats(1e8, 1e11))
clusters = st.builds(
    Cluster,
    st.integers(1, 16),
    link,
    link,
    st.one_of(st.none(), st.integers(1, 64)),
    st.one_of(st.none(), memory),
)
buckets = st.lists(st.integers(1, 10**9), min_size=1, max_size=8).map(tuple)


@given(compute=computes, cluster=clusters, sizes=buckets, power=st.integers(0, 10))
def test_parts_add_up_and_sums_cost_between_nothing_and_all_of_their_time(
    compute, cluster, sizes, power
):
    job = work(
        batch_size=1024, sums=(Sums("model", sizes),), image_bytes=1e4, checkpoint_bytes=10**8
    )
    row = predict(job, compute, cluster, 2**power, assumptions=Assumptions(), store_bytes_per_s=1e9)
    assert sum(row.parts.values()) == pytest.approx(row.step_s)
    assert all(part >= 0 for part in row.parts.values())
    assert 0 <= row.exposed_s <= row.exchange_s * (1 + 1e-6)
    assert (row.exchange_s == 0) == (row.ranks == 1)
    assert row.parts[row.bottleneck] == max(row.parts.values())
    assert row.images_per_s == pytest.approx(job.batch_size / row.step_s)
    assert row.store_bytes_per_s <= 1e9 * (1 + 1e-6)


@given(
    compute=computes,
    cluster=clusters,
    sizes=buckets,
    power=st.integers(1, 10),
    factor=st.floats(1, 100),
)
def test_a_faster_network_never_makes_a_step_slower(compute, cluster, sizes, power, factor):
    job = work(batch_size=1024, sums=(Sums("model", sizes),))
    faster = replace(
        cluster, between=Link(cluster.between.latency_s, factor * cluster.between.bytes_per_s)
    )
    rows = [predict(job, compute, c, 2**power, assumptions=STILL) for c in (cluster, faster)]
    assert rows[1].step_s <= rows[0].step_s * (1 + 1e-6)
