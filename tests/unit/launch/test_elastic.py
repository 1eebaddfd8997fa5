"""A run follows the size of its cluster, and ends where a run of a fixed size would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distgen.core.config import parse
from distgen.core.errors import DataError, PreemptedError, TrainingError
from distgen.core.storage import locate
from distgen.launch import elastic
from distgen.launch.cluster import Room
from distgen.launch.elastic import Elastic
from distgen.launch.faults import WorkersLostError
from distgen.training.job import TrainJob
from distgen.training.outcome import Outcome
from distgen.training.run import RunFolder

OUTCOME = Outcome("run", 640, "d" * 64, {})


def make_job(workers: Any, batch_size: int = 16, **model: Any) -> TrainJob:
    raw = {
        "name": "elastic",
        "data": {"shards": "x"},
        "model": {"family": "gan", "latent_dim": 8, "width": 8, **model},
        "training": {"images": 640, "batch_size": batch_size},
        "scaling": {"workers": workers, "max_failures": 2},
    }
    return parse(TrainJob, raw, "a test")


class Cluster:
    """As many free places as the test says, and all that a launch does in it."""

    address = "10.0.0.1:6379"

    def __init__(self, free: int, folder: Path) -> None:
        self.free = free
        self.folder = RunFolder(locate(folder))
        self.messages: list[str] = []
        self.sizes: list[int] = []
        self.acts: list[Callable[[threading.Event], Outcome]] = []

    def room(self) -> Room:
        return Room(({"CPU": float(self.free)},))

    def launch(self, job: TrainJob, more: threading.Event) -> Outcome:
        assert job.scaling.max_failures == 0, "Ray would wait for lost workers' places"
        assert isinstance(job.scaling.workers, int)
        self.sizes.append(job.scaling.workers)
        return self.acts.pop(0)(more)

    def run(self, job: TrainJob, *stops: threading.Event) -> Outcome:
        return Elastic(job, self.folder, self, self.launch, self.messages.append).run(stops)  # type: ignore[arg-type]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(4, tmp_path)

    def largest_free(sizes: Any, _need: Any) -> int | None:
        taken = made.sizes[-1] if made.sizes and threading.current_thread().name == "room" else 0
        return max((size for size in sizes if size <= made.free - taken), default=None)

    monkeypatch.setattr(elastic, "largest_free", largest_free)
    monkeypatch.setattr(elastic, "somebody_waits", lambda: False)
    monkeypatch.setattr(elastic, "LOOK_EVERY_S", 0.01)
    return made


def ends(_: threading.Event) -> Outcome:
    return OUTCOME


def fails(_: threading.Event) -> Outcome:
    raise WorkersLostError("The workers failed.")


def stops_for_more(more: threading.Event) -> Outcome:
    assert more.wait(30)
    raise PreemptedError("Stopped.")


@pytest.mark.parametrize(
    ("workers", "batch_size", "sizes"),
    [([1, 4], 16, (1, 2, 4)), ([2, 8], 24, (2, 3, 4, 6, 8)), (3, 24, (3,)), (0, 7, (1,))],
)
def test_ranks_share_a_batch_evenly_at_every_size(
    workers: Any, batch_size: int, sizes: tuple[int, ...]
) -> None:
    assert make_job(workers, batch_size).sizes == sizes


def test_groups_that_a_model_compares_are_never_divided() -> None:
    assert make_job([1, 4], 16, minibatch_deviation=True).sizes == (1, 2, 4)
    assert make_job([1, 4], 8, minibatch_deviation=True).sizes == (1, 2)


@pytest.mark.parametrize(("workers", "said"), [([4, 2], "smaller"), ([3, 3], "does not divide")])
def test_a_range_that_cannot_be_is_refused(workers: list[int], said: str) -> None:
    with pytest.raises(Exception, match=said):
        make_job(workers)


def test_it_starts_with_as_many_as_have_a_place(cluster: Cluster) -> None:
    cluster.free = 3
    cluster.acts = [ends]
    assert cluster.run(make_job([1, 4])) == OUTCOME
    assert cluster.sizes == [2], "three would not share a batch of 16"


def test_after_a_loss_it_goes_on_with_fewer_and_says_so(cluster: Cluster) -> None:
    def loses(_: threading.Event) -> Outcome:
        cluster.free = 1
        return fails(_)

    cluster.acts = [loses, ends]
    assert cluster.run(make_job([1, 4])) == OUTCOME
    assert cluster.sizes == [4, 1]
    (event,) = cluster.folder.events()
    assert (event["event"], event["before"], event["ranks"]) == ("resized", 4, 1)


def test_it_takes_workers_that_come(cluster: Cluster) -> None:
    cluster.free = 1

    def grows(more: threading.Event) -> Outcome:
        time.sleep(0.05)
        assert not more.is_set(), "there is no more room yet"
        cluster.free = 4
        return stops_for_more(more)

    cluster.acts = [grows, ends]
    assert cluster.run(make_job([1, 4])) == OUTCOME
    assert cluster.sizes == [1, 4]


def test_faults_are_counted_over_all_sizes(cluster: Cluster) -> None:
    cluster.acts = [fails, fails, fails, ends]
    with pytest.raises(WorkersLostError):
        cluster.run(make_job([1, 4]))
    assert len(cluster.sizes) == 3, "max_failures is 2"


def test_a_wish_to_stop_is_none_for_more_workers(cluster: Cluster) -> None:
    stop = threading.Event()

    def is_stopped(more: threading.Event) -> Outcome:
        stop.set()
        more.set()
        raise PreemptedError("Stopped.")

    cluster.acts = [is_stopped, ends]
    with pytest.raises(PreemptedError):
        cluster.run(make_job([1, 4]), stop)


def test_errors_that_no_restart_cures_end_it(cluster: Cluster) -> None:
    def damaged(_: threading.Event) -> Outcome:
        raise DataError("A shard is damaged.")

    cluster.acts = [damaged, ends]
    with pytest.raises(DataError):
        cluster.run(make_job([1, 4]))


def test_without_room_it_waits_for_some_time_and_then_names_the_cluster(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic, "WAIT_S", 0.05)
    cluster.free = 0
    with pytest.raises(TrainingError, match=r"10\.0\.0\.1"):
        cluster.run(make_job([1, 4]))
    assert cluster.messages == ["There is no room for 1 worker now; waiting for it."]
