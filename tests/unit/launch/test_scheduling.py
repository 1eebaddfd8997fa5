"""Clusters that only train: their processes do not interrupt those that compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from distgen.core.config import parse
from distgen.launch import cluster, train
from distgen.launch.scheduling import as_batch_work
from distgen.training.job import TrainJob
from distgen.tune import tuner
from distgen.tune.job import TuneJob

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux's alone")


def policy() -> int:
    return os.sched_getscheduler(0)


def policy_of_child() -> int:
    ask = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
    return int(subprocess.run(ask, check=True, capture_output=True).stdout)


@pytest.fixture(autouse=True)
def usual():
    parameters = os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, parameters)
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, parameters)


def test_processes_started_inside_are_batch_work_and_others_are_not():
    with as_batch_work():
        assert policy_of_child() == os.SCHED_BATCH
    assert policy() == policy_of_child() == os.SCHED_OTHER
    with as_batch_work(False):
        assert policy_of_child() == os.SCHED_OTHER


def test_what_fails_inside_leaves_the_policy_as_it_was():
    with pytest.raises(KeyError), as_batch_work():
        raise KeyError
    assert policy() == os.SCHED_OTHER


def test_another_policy_of_the_user_s_stays():
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_getparam(0))
    with as_batch_work():
        assert policy() == os.SCHED_IDLE
    assert policy() == os.SCHED_IDLE


def test_a_system_without_such_a_policy_goes_on(monkeypatch):
    monkeypatch.delattr(os, "SCHED_BATCH")
    with as_batch_work():
        assert policy() == os.SCHED_OTHER


def test_a_sandbox_that_refuses_goes_on(monkeypatch):
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setscheduler", refuse)
        with as_batch_work():
            assert policy() == os.SCHED_OTHER


@pytest.mark.parametrize("batch_work", [True, False])
def test_a_private_cluster_starts_as_it_is_asked(monkeypatch, batch_work):
    met: list[int] = []

    def init(**_: Any) -> None:
        met.append(policy())
        raise RuntimeError("far enough")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="far enough"):
        cluster.connect(batch_work=batch_work)
    assert met == [os.SCHED_BATCH if batch_work else os.SCHED_OTHER]
    assert policy() == os.SCHED_OTHER


@pytest.mark.parametrize(("gpus", "batch_work"), [(0, True), (1, False)])
def test_training_on_cpus_asks_for_it(monkeypatch, digits: str, tmp_path: Path, gpus, batch_work):
    asked: list[Any] = []

    def connect(*_: Any, **options: Any) -> None:
        asked.append(options)
        raise RuntimeError("far enough")

    raw = {
        "name": "quiet",
        "storage": str(tmp_path),
        "data": {"shards": digits},
        "model": {"family": "vae"},
        "training": {"images": 64},
        "scaling": {"gpus_per_worker": gpus},
    }
    space = {"training.seed": {"choice": [0, 1]}}
    trial = {name: part for name, part in raw.items() if name not in ("name", "storage")}
    search = {"kind": "tune", "name": "s", "train": trial, "search": {"space": space}}
    monkeypatch.setattr(train, "connect", connect)
    monkeypatch.setattr(tuner, "connect", connect)
    with pytest.raises(RuntimeError, match="far enough"):
        train.run(parse(TrainJob, raw, "job"))
    with pytest.raises(RuntimeError, match="far enough"):
        tuner.run(parse(TuneJob, search | {"storage": str(tmp_path)}, "search"))
    assert asked == [{"batch_work": batch_work}] * 2
