from __future__ import annotations

from typing import Any

import pytest

from distgen.core.config import override, parse
from distgen.tune.job import TuneJob
from distgen.tune.optuna import build_searcher
from tests.unit.tune.test_job import RAW
from tests.unit.tune.test_space import inside

pytest.importorskip("optuna")
SPACE = (
    "{training.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}, training.batch_size: "
    "{choice: [10, 20]}, training.weight_decay: {uniform: [0, 1]}, data.lanes: {randint: [1, 9]}}"
)


def test_known_points_come_first_and_new_ones_lie_in_the_space() -> None:
    raw = override(RAW, [f"search.space={SPACE}", "search.algorithm=optuna"])
    job = parse(TuneJob, raw, "x")
    known = [
        {
            "training.learning_rate": 1e-3,
            "training.batch_size": 20,
            "training.weight_decay": 0.5,
            "data.lanes": 9,
        }
    ]
    told: list[tuple[int, dict[str, Any]]] = []

    def configure(number: int, point: dict[str, Any]) -> dict[str, Any]:
        told.append((number, point))
        return {"number": number}

    searcher = build_searcher(job, known, configure)
    configs = [searcher.suggest(f"id{n}") for n in range(4)]
    assert configs == [{"trial": {"number": n}} for n in range(4)]
    assert told[0] == (0, known[0])
    for _, point in told[1:]:
        assert all(inside(point[key], d) for key, d in job.search.space.items())
        job.at(point)
