from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.config import Config, describe, dump_yaml, parse, parse_yaml
from distgen.core.errors import UsageError
from distgen.core.schedule import Schedule, ScheduledDecayRate, ScheduledNonNegative, value_at


class Penalties(Config):
    r1: ScheduledNonNegative = 1.0
    """Weight of a penalty."""
    betas: tuple[float, ScheduledDecayRate] = (0.0, 0.99)


MOVING = {"start": 2.0, "end": 0.5, "images": 1000}
numbers = st.floats(0.0, 1e6)


def message(raw: dict) -> str:
    with pytest.raises(UsageError) as caught:
        parse(Penalties, raw, "x")
    return caught.value.what


@given(start=numbers, end=numbers, images=st.integers(1, 10**9), shares=st.lists(st.floats(0, 3)))
def test_a_schedule_is_pure_monotone_and_stays_between_its_ends(start, end, images, shares):
    schedule = Schedule[float](start=start, end=end, images=images)
    clock = sorted(int(share * images) for share in shares)
    values = [schedule.at(seen) for seen in clock]
    assert values == [schedule.at(seen) for seen in clock]
    tolerance = 1e-12 * max(start, end, 1.0)
    sign = 1.0 if end >= start else -1.0
    assert all(sign * (later - earlier) >= -tolerance for earlier, later in pairwise(values))
    assert all(min(start, end) - tolerance <= v <= max(start, end) + tolerance for v in values)


def test_a_schedule_goes_from_start_to_end_along_half_a_cosine_and_stays():
    schedule = parse(Penalties, {"r1": MOVING}, "x").r1
    assert value_at(schedule, 0) == 2.0
    assert value_at(schedule, 500) == pytest.approx(1.25)
    assert value_at(schedule, 250) == pytest.approx(2.0 - 1.5 * 0.1464466)
    assert {value_at(schedule, seen) for seen in (1000, 1001, 10**9)} == {0.5}


@given(value=numbers, seen=st.integers(0, 10**9))
def test_a_plain_number_never_moves(value, seen):
    assert value_at(parse(Penalties, {"r1": value}, "x").r1, seen) == value


@pytest.mark.parametrize("raw", [{}, {"r1": 0.3}, {"r1": MOVING, "betas": [0.0, MOVING]}])
def test_a_resolved_config_reads_back_as_itself(raw):
    if "betas" in raw:
        raw = {**raw, "betas": [0.0, {"start": 0.9, "end": 0.99, "images": 10}]}
    config = parse(Penalties, raw, "x")
    assert parse(Penalties, parse_yaml(dump_yaml(config), "y"), "y") == config
    if "r1" not in raw:
        assert "r1: 1.0\n" in dump_yaml(config), "a number is written as a number"


def test_what_is_wrong_is_said_once_and_of_the_form_that_was_given():
    assert message({"r1": -1}).splitlines()[1:] == [
        "    r1: Input should be greater than or equal to 0 (given: -1)"
    ]
    assert "r1.end: Input should be greater than or equal to 0" in message(
        {"r1": {**MOVING, "end": -1}}
    )
    assert "did you mean 'start'" in message({"r1": {**MOVING, "strat": 1}})
    assert "r1.images: this key is required" in message({"r1": {"start": 1, "end": 2}})
    assert "betas.1: Input should be less than 1" in message({"betas": [0, 1]})
    assert "betas.1.end: Input should be less than 1" in message(
        {"betas": [0, {"start": 0.9, "end": 1.0, "images": 5}]}
    )


def test_the_schema_shows_the_number_and_what_a_schedule_holds():
    lines = describe(Penalties)
    assert [line.key for line in lines] == ["r1", "start", "end", "images", "betas"]
    assert (lines[0].type, lines[0].default) == ("float or section", "1.0")
    assert lines[0].help == "Weight of a penalty."
