"""A run on Ray Train is the run that was asked for, whatever happens to its workers."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from distgen.core.errors import DataError, PreemptedError, TrainingError, UsageError
from distgen.core.storage import locate
from distgen.launch import train
from distgen.launch.cluster import Connection
from distgen.registry.bundle import load_bundle
from distgen.training.job import TrainJob
from distgen.training.local import train_here
from distgen.training.run import RunFolder, Tick, open_pictures, prepare
from tests.faults import Survived, lost_after, when
from tests.ray import plain_ranks
from tests.ray.conftest import MODELS, MakeJob, losses, weights

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def uninterrupted(make_job: MakeJob) -> dict[str, TrainJob]:
    """One finished two-rank run of each family, by torch alone: nothing of Ray took part in it."""
    jobs = {family: make_job(family) for family in MODELS}
    for job in jobs.values():
        prepare(job, open_pictures(job).fingerprint)
    plain_ranks.run(list(jobs.values()))
    return jobs


@pytest.fixture(scope="module")
def whole(ray_cluster: Connection, make_job: MakeJob) -> TrainJob:
    """A finished run of two Ray workers."""
    job = make_job("gan")
    train.run(job)
    return job


def events(job: TrainJob, kind: str) -> list[dict]:
    return [event for event in RunFolder(job.location).events() if event["event"] == kind]


class KillOnce:
    """Kills one worker of a run with SIGKILL at a random step."""

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        steps = job.training.images // job.training.batch_size
        self.at = random.SystemRandom().randrange(2, steps // 2) * job.training.batch_size
        self.rank = random.SystemRandom().randrange(job.scaling.workers)
        self.done = False

    def __call__(self, tick: Tick) -> bool:
        if tick.images_seen >= self.at and not self.done:
            self.done = True
            ranks = events(self.job, "workers running")[-1]["ranks"]
            os.kill(ranks[self.rank]["pid"], signal.SIGKILL)
        return False


def test_two_workers_write_a_whole_run(whole: TrainJob, uninterrupted: dict[str, TrainJob]) -> None:
    folder = RunFolder(whole.location)
    assert folder.is_finished(whole.training.images)
    assert load_bundle(folder.bundle).model.num_classes == 10
    assert folder.card.is_file()
    assert folder.report.is_file()
    assert [event["ranks"] for event in events(whole, "started")] == [2]
    assert not (folder.location / "ray").is_dir(), "what Ray keeps for itself is gone"
    assert weights(whole) == weights(uninterrupted["gan"])
    assert losses(whole) == losses(uninterrupted["gan"])


def test_ranks_talk_through_the_interface_of_the_nodes_address(
    whole: TrainJob, ray_cluster: Connection
) -> None:
    address = ray_cluster.address.rpartition(":")[0]
    (running,) = events(whole, "workers running")
    assert [member["rank"] for member in running["ranks"]] == [0, 1]
    for member in running["ranks"]:
        entries = psutil.net_if_addrs()[member["interface"]]
        assert address in [entry.address for entry in entries]


def test_finished_run_is_left_alone(whole: TrainJob) -> None:
    before = weights(whole), RunFolder(whole.location).events()
    outcome = train.run(whole)
    assert outcome.images_seen == whole.training.images
    assert (weights(whole), RunFolder(whole.location).events()) == before


@pytest.mark.slow
def test_run_is_given_up_after_its_last_failure(make_job: MakeJob) -> None:
    job = make_job("vae", scaling__max_failures=0)
    with pytest.raises(TrainingError, match=r"(?s)failed once.*process died.*resumes"):
        train.run(job, on_tick=KillOnce(job), on_message=lambda _: None)
    assert len(events(job, "workers running")) == 1


@pytest.mark.parametrize(
    "family",
    # What Ray does is the same for each family, and takes most of a minute.
    ["gan", *(pytest.param(each, marks=pytest.mark.slow) for each in ("vae", "rvae"))],
)
def test_killed_worker_costs_nothing(
    family: str, uninterrupted: dict[str, TrainJob], make_job: MakeJob
) -> None:
    job = make_job(family)
    messages: list[str] = []
    kill = KillOnce(job)
    train.run(job, on_tick=kill, on_message=messages.append)
    fate = f"rank {kill.rank} was killed at {kill.at} images"
    assert len(events(job, "workers lost")) == 1, fate
    assert len(events(job, "workers running")) == 2, fate
    assert "process died" in messages[0]
    assert weights(job) == weights(uninterrupted[family]), fate
    assert losses(job) == losses(uninterrupted[family]), fate


@pytest.mark.faults
def test_a_rank_that_hangs_is_looked_into_and_costs_nothing(
    uninterrupted: dict[str, TrainJob],
    make_job: MakeJob,
    survived: Callable[[Survived, int], None],
) -> None:
    job = make_job("vae", scaling__patience_s=5.0)
    messages: list[str] = []
    hung: list[float] = []

    def hang(tick: Tick) -> bool:
        running = events(job, "workers running")
        if len(running) == 1 and tick.images_seen < job.training.images // 2:
            hung.append(time.time())
            os.kill(running[0]["ranks"][1]["pid"], signal.SIGSTOP)
        return False

    train.run(job, on_tick=hang, on_message=messages.append)
    (stalled,) = events(job, "stalled")
    assert stalled["states"]["1"] == psutil.STATUS_STOPPED
    assert any("rank 1 is stopped" in message for message in messages), messages
    stacks = RunFolder(job.location).location / "stacks"
    waiting = (stacks / f"{stalled['images_seen']:012d}-rank-0.txt").read_bytes().decode()
    assert "trainer.py" in waiting, "where the other rank waits for it"
    _, running = events(job, "workers running")
    assert losses(job) == losses(uninterrupted["vae"])
    row = Survived(
        "hung rank (SIGSTOP), patience 5 s, one host",
        weights(job) == weights(uninterrupted["vae"]),
        lost_after(RunFolder(job.location).events(), hung[0]),
        detected_s=when(stalled) - hung[0],
        back_s=when(running) - when(stalled),
    )
    survived(row, job.training.checkpoint_every)


def test_a_signal_stops_with_a_checkpoint_and_the_same_call_resumes(
    uninterrupted: dict[str, TrainJob], make_job: MakeJob
) -> None:
    job = make_job("vae")
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(tick: Tick) -> bool:
        if tick.images_seen == 240:
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    with pytest.raises(PreemptedError) as raised:
        train.run(job, on_tick=interrupt, on_message=lambda _: None)
    assert raised.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert events(job, "stopped")[-1]["images_seen"] >= 240
    assert not RunFolder(job.location).is_finished(job.training.images)
    train.run(job)
    assert len(events(job, "resumed")) == 1
    assert weights(job) == weights(uninterrupted["vae"])


def test_one_rank_sees_the_losses_of_two(
    uninterrupted: dict[str, TrainJob], make_job: MakeJob
) -> None:
    job = make_job("vae", scaling__workers=0)
    train_here(job)
    alone, together = losses(job), losses(uninterrupted["vae"])
    assert len(alone) == len(together)
    for (seen, one), (also_seen, two) in zip(alone, together, strict=True):
        assert seen == also_seen
        assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.slow
def test_damaged_shard_ends_the_run_with_its_own_error(make_job: MakeJob, tmp_path: Path) -> None:
    from distgen.data.building import build

    shards = tmp_path / "digits"
    build("digits", str(shards))
    tar = next((shards / "train").glob("*.tar"))
    tar.write_bytes(bytes(byte ^ 1 for byte in tar.read_bytes()))
    job = make_job("vae", data__shards=str(shards))
    with pytest.raises(DataError) as raised:
        train.run(job)
    assert tar.name in str(raised.value)
    assert len(events(job, "started")) == 1, "another attempt would only fail again"


def test_workers_that_can_never_fit_are_refused_before_anything_starts(make_job: MakeJob) -> None:
    job = make_job("vae", scaling__workers=8, scaling__cpus_per_worker=1000)
    with pytest.raises(UsageError, match=r"8 workers with 1000 CPUs .* 1 node, .* CPUs"):
        train.run(job)
    assert not events(job, "started")


def test_missing_shard_set_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        train.run(make_job("vae", data__shards=str(tmp_path / "nowhere")))


def test_relative_paths_mean_the_folder_of_the_caller(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    job = train.with_absolute_paths(make_job("vae", storage="runs", data__shards="shards"))
    assert job.location.path == str(locate(tmp_path / "runs" / "tiny-vae"))
    assert job.data.shards == str(tmp_path / "shards")
