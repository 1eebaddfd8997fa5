"""Twenty jobs at once, and a cluster that is lost: every run ends, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from distgen.core.config import dump_yaml
from distgen.launch import cluster
from distgen.launch.state import ClusterState
from distgen.launch.submit import JobInfo, Jobs
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder
from tests.ray.conftest import MakeJob
from tests.ray.open_ports import processes

pytestmark = pytest.mark.faults

COUNT = 20
WIDE = 3
"""Of them need the whole cluster, and so could starve."""
LIGHT_BYTES = 200 << 20
"""Of memory, at most, while a job waits; one that trains has twice as much."""

LOOK_FOR_LEFTOVERS = """
from distgen.launch.cluster import connect
from distgen.launch.turns import _tickets
with connect("auto"):
    from ray.util.placement_group import placement_group_table
    groups = [group["state"] for group in placement_group_table().values()]
    print(len(_tickets()), [state for state in groups if state != "REMOVED"])
"""


def send(jobs: Jobs, job: TrainJob) -> str:
    return jobs.submit(dump_yaml(job), name=job.name, kind="train", storage=job.storage)


def drivers(state: ClusterState) -> dict[int, bool]:
    """The jobs' own processes, and whether each has loaded torch."""
    found = {}
    for pid, process in processes(state).items():
        try:
            command = process.cmdline()
            if "distgen" in command and "train" in command:
                found[pid] = "libtorch" in Path(f"/proc/{pid}/maps").read_text()
                if not found[pid]:
                    assert process.memory_info().rss < LIGHT_BYTES
        except (psutil.Error, OSError):
            continue
    return found


def sent_from() -> Iterator[Path]:
    """Folders in which jobs are packed before they are sent."""
    return Path(tempfile.gettempdir()).glob("distgen-submit*")


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.5)


def quiet(state: ClusterState) -> set[str]:
    """Names of a cluster's processes but for idle workers, which Ray keeps for a while, and for
    what Ray has once in a cluster from its first training on.
    """
    names = {each.name() for each in processes(state).values()}
    return names - {"ray::IDLE", "ray::_AutoscalingCoordinatorActor"}


def test_twenty_jobs_at_once_all_end_and_leave_nothing(
    two_nodes: ClusterState, make_job: MakeJob, tmp_path: Path
) -> None:
    before, temporary = quiet(two_nodes), set(sent_from())
    sent = [
        make_job(
            "vae",
            name=f"one-of-many-{number:02d}",
            storage=str(tmp_path / "runs"),
            training__images=32,
            scaling={"workers": 2 if number < WIDE else 1, "cpus_per_worker": 1},
        )
        for number in range(COUNT)
    ]
    jobs = Jobs(two_nodes.dashboard_url)
    with ThreadPoolExecutor(COUNT) as threads:
        ids = list(threads.map(lambda job: send(jobs, job), sent))
    heavy: list[int] = []
    waited = 0

    def over() -> bool:
        nonlocal waited
        seen = drivers(two_nodes)
        heavy.append(sum(seen.values()))
        waited = max(waited, len(seen) - heavy[-1])
        return all(info.over for info in infos(jobs, ids))

    wait_until(over)
    for info in infos(jobs, ids):
        assert info.status == "SUCCEEDED", (info, jobs.logs(info.id))
    for job in sent:
        assert RunFolder(job.location).is_finished(32)
        assert not (job.location / "ray").is_dir(), "Ray's folder for a launch is left behind"
    assert waited >= COUNT // 2, "most of them had to wait"
    # One for each core, one that has come and loads, one that has trained and writes its report.
    assert max(heavy) <= 6, f"jobs that wait have loaded torch: {heavy}"
    answer = subprocess.run(
        [sys.executable, "-c", LOOK_FOR_LEFTOVERS], capture_output=True, text=True
    )
    assert answer.stdout.split() == ["0", "[]"], answer.stdout + answer.stderr
    wait_until(lambda: not drivers(two_nodes))
    wait_until(lambda: quiet(two_nodes) <= before | {"ray::DashboardAgent", "ray::RuntimeEnvAgent"})
    assert set(sent_from()) <= temporary


def infos(jobs: Jobs, ids: list[str]) -> list[JobInfo]:
    return [info for info in jobs.list() if info.id in ids]


def test_a_job_goes_on_after_the_loss_of_its_cluster_by_its_name(
    own_surroundings: Path, make_job: MakeJob
) -> None:
    job = make_job("vae", training__images=10_000_000, scaling={"workers": 1, "cpus_per_worker": 1})
    folder = RunFolder(job.location)
    lost = cluster.up(1, cpus_per_node=1)
    try:
        send(Jobs(lost.dashboard_url), job)
        wait_until(lambda: len(folder.checkpoints.list()) > 1)
        os.kill(lost.nodes[0].pid, signal.SIGKILL)
    finally:
        cluster.down()
    assert not processes(lost)
    newest = max(int(place.name) for place in folder.checkpoints.list())

    shorter = {"images": newest + 160}
    again = job.model_copy(update={"training": job.training.model_copy(update=shorter)})
    state = cluster.up(1, cpus_per_node=1)
    try:
        jobs = Jobs(state.dashboard_url)
        info = jobs.wait(send(jobs, again))
        assert info.status == "SUCCEEDED", jobs.logs(info.id)
    finally:
        cluster.down()
    assert folder.is_finished(newest + 160)
    began = [event for event in folder.events() if event["event"] == "resumed"]
    assert began, [event["event"] for event in folder.events()]
    assert began[-1]["images_seen"] >= newest - 160
