import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.core.seeding import derive
from distgen.core.world import World, slice_for


@given(st.integers(0, 1000), st.integers(0, 300), st.integers(1, 16))
def test_ranks_share_a_batch_without_gap_or_overlap(start: int, length: int, size: int):
    parts = [slice_for(World(rank, size), range(start, start + length)) for rank in range(size)]
    assert sorted(p for part in parts for p in part) == list(range(start, start + length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_rank_outside_its_world_is_refused():
    with pytest.raises(ValueError, match="rank 2"):
        World(2, 2)


def test_seeds_differ_by_seed_purpose_and_position_and_stay_the_same_for_ever():
    seeds = {derive(s, p, i) for s in range(8) for p in ("latents", "order") for i in range(64)}
    assert len(seeds) == 8 * 2 * 64
    assert derive(0, "latents", 1) == 2779867323721701940
    assert derive(0, "1") != derive(0, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_errors_keep_their_parts_between_processes():
    error = DataError("Broken.", where="a.tar", cause="a flipped bit", remedy="build it again")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DataError
    assert str(again) == str(error)
    assert "try: build it again" in str(again)


def test_errors_know_their_exit_code():
    assert UsageError("x").exit_code == 2


def test_did_you_mean_prefers_the_nearest_and_lists_all():
    assert did_you_mean("sneakr", ["sneaker", "bag"]).startswith("did you mean 'sneaker'?")
    assert did_you_mean("zzz", ["sneaker", "bag"]) == "choices: bag, sneaker"
