from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distgen.core.config import dump_yaml, override, parse, parse_yaml
from distgen.core.errors import UsageError
from distgen.tune.job import TuneJob, with_absolute_paths

RAW: dict[str, Any] = {
    "kind": "tune",
    "name": "search",
    "train": {
        "data": {"shards": "shards/digits"},
        "model": {"family": "vae"},
        "training": {"images": 1000, "batch_size": 10},
    },
    "search": {"space": {"training.learning_rate": {"loguniform": [1e-4, 1e-2]}}},
}


def job(*changes: str) -> TuneJob:
    return parse(TuneJob, override(RAW, changes), "search.yaml")


def space(text: str) -> str:
    return f"search.space={{{text}}}"


def test_job_survives_its_file() -> None:
    whole = job()
    assert parse(TuneJob, parse_yaml(dump_yaml(whole), "x"), "x") == whole
    assert whole.train.name == "search-best"


def test_train_job_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump({"kind": "train", "name": "mine", **RAW["train"]}))
    assert job(f"train={file}").train.name == "mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (space("training.learning_rat: {uniform: [0.1, 1]}"), "did you mean 'learning_rate'"),
        (space("training.learning_rate: {unifrom: [0.1, 1]}"), "did you mean 'uniform'"),
        (space("training.learning_rate: {uniform: [0, 1]}"), "greater than 0"),
        (space("training.learning_rate: {uniform: [1, 0.1]}"), "smaller one"),
        (space("training.learning_rate: {loguniform: [0, 1]}"), "positive bounds"),
        (space("training.learning_rate: {choice: [0.1], uniform: [1, 2]}"), "exactly one"),
        (space("training.learning_rate: 3"), "write one of"),
        (space("training.batch_size: {choice: [10, ten]}"), "training.batch_size"),
        (space("model.family.x: {choice: [1]}"), "not a section"),
        ("search.metric=frechet_dist/efficientnet-lite0", "did you mean 'frechet_distance/eff"),
        (space("name: {choice: [a, b]}"), "the same for all trials"),
        (space("scaling.workers: {choice: [1, 2]}"), "the same for all trials"),
        ("search.algorithm=grid", "is a range"),
        ("search.grace_images=2000", "longer than"),
        ("search.trails=3", "did you mean 'trials'"),
        ("train=nowhere.yaml", "nowhere.yaml"),
        ("train.training.images=0", "train.training.images"),
    ],
)
def test_mistake_is_named_before_anything_starts(change: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        job(change)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("", "min"),
        ("frechet_distance/pixel-pca64", "min"),
        ("coverage/efficientnet-lite0", "max"),
        ("bound_nats", "min"),
    ],
)
def test_direction_follows_from_the_metric(metric: str, mode: str) -> None:
    search = job(f"search.metric={metric!r}")
    assert search.mode == mode
    assert search.metric == (metric or "frechet_distance/efficientnet-lite0")


def test_gan_has_no_likelihood_to_search_for() -> None:
    with pytest.raises(UsageError, match="bound_nats"):
        job("train.model={family: gan}", "search.metric=bound_nats")


def test_point_changes_what_it_names_and_nothing_else() -> None:
    search = job()
    varied = search.at({"training.learning_rate": 0.005})
    assert varied.training.learning_rate == 0.005
    restored = varied.training.model_copy(update={"learning_rate": 2e-4})
    assert varied.model_copy(update={"training": restored}) == search.train


def test_relative_paths_mean_the_folder_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shards = space("data.shards: {choice: [shards/a, shards/b]}")
    varied = with_absolute_paths(job(shards)).search.space["data.shards"].choice
    assert varied == tuple(str(tmp_path / "shards" / name) for name in "ab")
    absolute = with_absolute_paths(job())
    assert absolute.storage == str(tmp_path / "runs")
    assert absolute.train.data.shards == str(tmp_path / "shards" / "digits")
    assert absolute.train.storage == str(tmp_path / "runs")
