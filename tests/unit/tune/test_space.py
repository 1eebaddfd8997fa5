from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from distgen.tune.job import Dimension, SearchConfig
from distgen.tune.space import key_of, points, sample

FINITE = st.floats(-1e6, 1e6, allow_nan=False)
DIMENSIONS = st.one_of(
    st.lists(st.integers(), min_size=1, max_size=4, unique=True).map(lambda v: {"choice": v}),
    st.tuples(FINITE, FINITE).filter(lambda v: v[0] < v[1]).map(lambda v: {"uniform": v}),
    st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
    .filter(lambda v: v[0] < v[1])
    .map(lambda v: {"loguniform": v}),
    st.tuples(st.integers(-9, 9), st.integers(10, 20)).map(lambda v: {"randint": v}),
)
SPACES = st.dictionaries(st.sampled_from(["a.b", "a.c", "d"]), DIMENSIONS, min_size=1)


def inside(value: Any, dimension: Dimension) -> bool:
    if dimension.choice is not None:
        return value in dimension.choice
    low, high = dimension.extremes
    return low <= value <= high and (dimension.randint is None or isinstance(value, int))


@given(SPACES, st.integers(0, 2**31), st.integers(0, 100))
def test_every_value_lies_in_its_dimension(space: dict, seed: int, number: int) -> None:
    search = SearchConfig(space=space)
    point = sample(search.space, seed, number)
    assert list(point) == list(space)
    assert all(inside(value, search.space[key]) for key, value in point.items())


@given(SPACES, st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 6))
def test_longer_search_begins_like_the_shorter(
    space: dict, seed: int, trials: int, more: int
) -> None:
    short = points(SearchConfig(space=space, seed=seed, trials=trials))
    long = points(SearchConfig(space=space, seed=seed, trials=trials + more))
    assert long[: len(short)] == short


@given(SPACES, st.integers(0, 2**31))
def test_no_point_comes_twice(space: dict, seed: int) -> None:
    keys = [key_of(point) for point in points(SearchConfig(space=space, seed=seed, trials=8))]
    assert len(keys) == len(set(keys))


def test_small_space_is_used_up_and_no_more() -> None:
    search = SearchConfig(space={"a": {"choice": [1, 2]}, "b": {"choice": [3]}}, trials=50)
    assert sorted(point["a"] for point in points(search)) == [1, 2]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 80))
def test_grid_is_the_product_of_its_choices(sizes: list[int], trials: int) -> None:
    space = {f"k{i}": {"choice": list(range(size))} for i, size in enumerate(sizes)}
    search = SearchConfig(space=space, algorithm="grid", trials=trials)
    expected = list(itertools.product(*(range(size) for size in sizes)))[:trials]
    assert [tuple(point.values()) for point in points(search)] == expected
