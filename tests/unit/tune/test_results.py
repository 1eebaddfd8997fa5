from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.config import override, parse, read_job_file
from distgen.core.errors import TrainingError, UsageError
from distgen.launch.cluster import Room
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder, Tick
from distgen.training.scaling import ScalingConfig
from distgen.tune.folder import SearchFolder, Trial, name_of, rank
from distgen.tune.job import TuneJob
from distgen.tune.report import to_html, to_parquet, write_results
from distgen.tune.space import points
from distgen.tune.tuner import _Search, conclude, concurrency
from tests.unit.tune.test_job import RAW

METRIC = "frechet_distance/efficientnet-lite0"


def make_folder(tmp_path: Path, *changes: str) -> SearchFolder:
    raw = override(RAW, [f"storage={tmp_path}", *changes])
    return SearchFolder(parse(TuneJob, raw, "search.yaml"))


def trial(number: int, value: float | None, point: dict[str, Any] | None = None) -> Trial:
    figures = {} if value is None else {METRIC: value}
    status = "failed" if value is None else "finished"
    return Trial(number, point or {}, f"runs/{number}", status, 1000, value, figures, "<cause>")


ODD = (math.nan, math.inf, -math.inf)
VALUES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from(ODD)), max_size=8)


@given(VALUES, st.sampled_from(["min", "max"]))
def test_ranking_begins_with_the_best_and_leaves_out_the_unmeasured(
    values: list[float | None], mode: str
) -> None:
    ranked = rank([trial(n, value) for n, value in enumerate(values)], mode)
    measured = [value for value in values if value is not None and math.isfinite(value)]
    assert [t.value for t in ranked] == sorted(measured, reverse=mode == "max")


def test_trials_are_read_back_from_their_runs(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.prepare(resume=False)
    point = {"training.learning_rate": 1e-3}
    folder.note(0, point, "running")
    run = RunFolder(folder.location / "trials" / name_of(0))
    for images, value in ((200, 50.0), (400, 30.0), (600, 40.0)):
        run.log(Tick("train", images, 1000))
        run.log_card(images, {METRIC: value, "other": 1.0})
    run.log(Tick("train", 700, 1000))
    (found,) = folder.trials()
    assert (found.point, found.status, found.images_seen) == (point, "running", 700)
    assert (found.value, found.figures) == (30.0, {METRIC: 30.0, "other": 1.0})


def test_best_job_file_can_be_trained_and_says_where_it_is_from(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    trials = [trial(n, 10.0 - n, {"training.learning_rate": 1e-3 * (n + 1)}) for n in range(3)]
    write_results(folder, [*trials, trial(3, None)])
    text = folder.best.read_text()
    assert "best of 4 trials" in text.splitlines()[0]
    best = parse(TrainJob, read_job_file(folder.best.path), "best.yaml")
    assert best.training.learning_rate == pytest.approx(3e-3)
    assert (best.name, best.storage) == ("search-best", "runs")


def test_table_holds_values_and_figures_of_every_trial() -> None:
    trials = [
        trial(0, 3.0, {"a": 1, "mixed": "x"}),
        trial(1, None, {"a": 2, "mixed": 4}),
    ]
    rows = pq.read_table(io.BytesIO(to_parquet(trials))).to_pylist()
    assert [(row["trial"], row["a"], row["value"]) for row in rows] == [(0, 1, 3.0), (1, 2, None)]
    assert [row["mixed"] for row in rows] == ['"x"', "4"]


@given(
    st.lists(
        st.tuples(st.floats(1e-6, 1e3), st.sampled_from(["<b>", 3, None, True])),
        min_size=1,
        max_size=5,
    )
)
def test_page_shows_every_trial_and_escapes_what_it_shows(values: list[tuple[float, Any]]) -> None:
    raw = override(RAW, ["search.space={training.learning_rate: {uniform: [0.1, 1]}}"])
    folder = SearchFolder(parse(TuneJob, raw, "x"))
    trials = [
        trial(n, value, {"training.learning_rate": kind}) for n, (value, kind) in enumerate(values)
    ]
    page = to_html(folder, trials)
    assert page.count("<polyline") == len(trials)
    assert "<b>" not in page
    assert "<cause>" not in page
    assert "nan" not in page


def test_search_without_one_card_is_an_error_with_a_cause(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.prepare(resume=False)
    folder.note(0, {}, "failed", "the disk is full")
    with pytest.raises(TrainingError, match="the disk is full"):
        conclude(folder)


def test_started_search_is_gone_on_with_only_when_asked(tmp_path: Path) -> None:
    make_folder(tmp_path).prepare(resume=False)
    with pytest.raises(UsageError, match="--resume"):
        make_folder(tmp_path).prepare(resume=False)
    make_folder(tmp_path).prepare(resume=True)
    # A queue that starts it again cannot know whether it has been started before.
    make_folder(tmp_path / "elsewhere").prepare(resume=True)


def test_longer_search_that_is_cut_short_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path)
    folder.prepare(resume=False)
    for number, point in enumerate(points(folder.job.search)):
        folder.note(number, point, "finished")
    folder.best.write_text("the best of a shorter search")
    assert folder.is_finished

    class Cut:
        def fit(self) -> None:
            raise RuntimeError("cut short")

    monkeypatch.setattr(_Search, "_tuner", lambda *_: Cut())
    search = _Search(folder, Room(({"CPU": 8.0},)), lambda _: None, lambda _: None)
    with pytest.raises(RuntimeError, match="cut short"):
        search.run()
    assert not folder.is_finished


def test_different_search_of_the_same_name_is_refused_with_the_difference(tmp_path: Path) -> None:
    make_folder(tmp_path).prepare(resume=False)
    with pytest.raises(UsageError, match=r"search\.seed: 0 in the search, 1 now"):
        make_folder(tmp_path, "search.seed=1").prepare(resume=True)
    make_folder(tmp_path, "search.trials=20").prepare(resume=True)


@given(st.integers(1, 8), st.integers(0, 4), st.integers(1, 9))
def test_concurrent_trials_fit_together(cpus: int, workers: int, limit: int) -> None:
    room = Room(({"CPU": float(cpus)},))
    count = concurrency(ScalingConfig(workers=workers), room, limit)
    assert 1 <= count <= limit
    assert count == 1 or count * max(1, workers) <= cpus
    assert concurrency(ScalingConfig(workers=workers), room, None) == max(
        1, math.floor(cpus / max(1, workers))
    )
