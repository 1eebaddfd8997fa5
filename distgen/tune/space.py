"""Points of a search space: which values a trial gets, as a pure function of seed and number."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from distgen.core.seeding import derive
from distgen.tune.job import Dimension, SearchConfig

Point = dict[str, Any]
"""Values under dotted keys."""

_TRIES = 100
"""Draws for one point that is not there yet; a small space of choices is used up long before."""


def points(search: SearchConfig) -> list[Point]:
    """The points of a random or grid search, no point twice; point i does not depend on `trials`.

    A search can thus be made longer, or gone on with, and its first trials stay what they were.
    """
    if search.algorithm == "grid":
        return list(itertools.islice(_grid(search.space), search.trials))
    found: dict[str, Point] = {}
    for number in range(search.trials):
        for attempt in range(_TRIES):
            point = sample(search.space, search.seed, number, attempt)
            if key_of(point) not in found:
                found[key_of(point)] = point
                break
    return list(found.values())


def sample(space: Mapping[str, Dimension], seed: int, number: int, attempt: int = 0) -> Point:
    """Point `number` of a random search; each key is drawn by itself, so keys may be added."""
    return {
        key: _draw(dimension, random.Random(derive(seed, "point", key, number, attempt)))
        for key, dimension in space.items()
    }


def key_of(point: Point) -> str:
    """Equal for equal points."""
    return json.dumps(point, sort_keys=True, default=str)


def _grid(space: Mapping[str, Dimension]) -> Iterator[Point]:
    axes = [dimension.choice or () for dimension in space.values()]
    return (dict(zip(space, values, strict=True)) for values in itertools.product(*axes))


def _draw(dimension: Dimension, source: random.Random) -> Any:
    if dimension.choice is not None:
        return source.choice(dimension.choice)
    if dimension.uniform is not None:
        return source.uniform(*dimension.uniform)
    if dimension.loguniform is not None:
        low, high = dimension.loguniform
        value = math.exp(source.uniform(math.log(low), math.log(high)))
        return min(max(value, low), high)  # rounding may step over a bound by the last bit
    return source.randint(*(dimension.randint or (0, 0)))
