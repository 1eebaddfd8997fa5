"""A run is launched again where Ray does not do so itself, as often as it may be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from distgen.core.config import parse
from distgen.core.errors import PreemptedError, UsageError
from distgen.core.storage import locate
from distgen.launch.cluster import Connection
from distgen.launch.faults import ControllerLostError, GiveUp, WorkersLostError, persevere
from distgen.launch.leaving import Leaving, NodeLeavingError
from distgen.launch.monitoring import RunMetrics
from distgen.launch.setbacks import Setbacks
from distgen.launch.telemetry import Member
from distgen.launch.train import _Launch, _Told
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder


def launches(*fates: Exception | str) -> Callable[[], str]:
    left = list(fates)

    def launch() -> str:
        fate = left.pop(0)
        if isinstance(fate, Exception):
            raise fate
        return fate

    return launch


def at_most(limit: int, folder: Path) -> Setbacks:
    return Setbacks(locate(folder / "checkpoints"), limit)


def test_a_controller_may_die_as_often_as_workers_may_fail(tmp_path: Path) -> None:
    lost = ControllerLostError("it died")
    assert persevere(launches(lost, lost, "done"), at_most(2, tmp_path)) == "done"
    with pytest.raises(ControllerLostError):
        persevere(launches(lost, lost, lost, "done"), at_most(2, tmp_path))


def test_a_node_that_leaves_is_no_failure(tmp_path: Path) -> None:
    leaves = NodeLeavingError("its node leaves")
    assert persevere(launches(leaves, leaves, "done"), at_most(0, tmp_path)) == "done"


def test_whoever_asks_for_a_stop_gets_it(tmp_path: Path) -> None:
    with pytest.raises(PreemptedError):
        persevere(launches(PreemptedError("stopped"), "done"), at_most(3, tmp_path))


def test_failures_count_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    setbacks = pickle.loads(pickle.dumps(at_most(2, tmp_path)))  # as it travels to the controller

    def reaches(images: int, *, whole: bool = True) -> None:
        folder = tmp_path / "checkpoints" / f"{images:012d}"
        folder.mkdir(parents=True)
        if whole:
            (folder / "manifest.json").write_text("{}")

    def fates(number: int) -> list[bool]:
        return [setbacks.one_more() for _ in range(number)]

    assert fates(2) == [True, True]
    reaches(160)
    assert fates(2) == [True, True]
    reaches(320, whole=False)
    assert fates(1) == [False], "half a checkpoint is no progress"
    reaches(480)
    assert fates(3) == [True, True, False]


class Faults:
    def __init__(self) -> None:
        self.told: list[str] = []

    def fault(self, text: str) -> None:
        self.told.append(text)


def test_a_run_is_given_up_where_its_workers_fail_again_and_again(tmp_path: Path) -> None:
    telemetry = Faults()
    callback = GiveUp(telemetry, at_most(1, tmp_path), str(tmp_path))  # type: ignore[arg-type]
    died: dict[int, Exception] = {1: RuntimeError("out of luck")}
    callback.after_exception(None, died)
    with pytest.raises(WorkersLostError, match=r"(?s)failed 2 times.*rank 1: out of luck.*resumes"):
        callback.after_exception(None, died)
    assert telemetry.told == ["rank 1: out of luck"] * 2
    with pytest.raises(UsageError, match="no such shard set"):
        callback.after_exception(None, {0: UsageError("There is no such shard set.")})


def test_only_ranks_whose_node_leaves_are_concerned() -> None:
    nodes: dict[str, int] = {}
    members = [Member(rank, 1, f"host{rank}", "eth0", node=f"node{rank}") for rank in range(3)]
    leaving = Leaving(lambda: dict(nodes))
    leaving.look()
    assert leaving.among(members) == []
    nodes.update({"node1": 0, "elsewhere": 0})
    leaving.look()
    assert leaving.among(members) == [members[1]]
    assert leaving.in_seconds("node1") is None


def test_a_head_that_is_away_changes_nothing() -> None:
    answers: list[Callable[[], dict[str, int]]] = [lambda: {"node0": 1}]

    def ask() -> dict[str, int]:
        if not answers:
            raise RuntimeError("the head is away")
        return answers.pop()()

    leaving = Leaving(ask)
    leaving.look()
    leaving.look()
    assert leaving.among([Member(0, 1, "host", "eth0", node="node0")])
    assert leaving.in_seconds("node0") == 0.0


def test_a_controller_that_died_is_told_and_is_a_loss_of_workers(tmp_path: Path) -> None:
    raw = {
        "name": "small",
        "data": {"shards": "x"},
        "model": {"family": "vae", "latent_dim": 4, "width": 8},
        "training": {"images": 64, "batch_size": 16},
    }
    job, folder = parse(TrainJob, raw, "a test"), RunFolder(locate(tmp_path))
    connection = Connection("h:1", None, None, connected_here=False, started_here=False)
    messages: list[str] = []
    told = _Told(RunMetrics(job.name), lambda _: False, messages.append, lambda: None)
    launch = _Launch(job, folder, connection, told)
    explained = launch._explain(ray.exceptions.ActorDiedError())
    assert isinstance(explained, ControllerLostError)
    assert isinstance(explained, WorkersLostError), "an elastic run counts it, and goes on"
    assert "the same command resumes" in str(explained)
    (event,) = folder.events()
    assert event["event"] == "workers lost"
    assert "controller" in event["cause"]
    assert "Restarting from the last checkpoint" in messages[0]
