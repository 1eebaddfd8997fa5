"""A cluster of separate node processes, and job files that are sent to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
import typer
from typer.testing import CliRunner, Result

from distgen.cli import cluster as cluster_commands
from distgen.cli import jobs as job_commands
from distgen.core.config import dump_yaml
from distgen.core.errors import UsageError
from distgen.launch import cluster
from distgen.launch.nodes import MARK
from distgen.launch.state import ClusterState, state_file
from distgen.launch.submit import Jobs
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder
from tests.ray.conftest import MakeJob

cli = typer.Typer()
cli.add_typer(cluster_commands.app, name="cluster")
cli.add_typer(job_commands.app, name="jobs")
cli.command("submit")(job_commands.submit)


def distgen(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(job: TrainJob, folder: Path) -> str:
    file = folder / "job.yaml"
    file.write_text(dump_yaml(job))
    return str(file)


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.2)


def family(state: ClusterState) -> list[psutil.Process]:
    """Every process that carries the cluster's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == state.temp_dir:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_two_nodes_are_separate_processes_that_form_one_cluster(nodes: ClusterState) -> None:
    assert len({node.pid for node in nodes.nodes}) == 2
    report = json.loads(distgen("cluster", "status", "--json").stdout)
    assert report["healthy"]
    assert (report["nodes_registered"], report["cpus"]) == (2, 2.0)
    assert report["dashboard_url"].startswith("http://127.0.0.1:")


def test_drivers_reach_it_as_auto(nodes: ClusterState) -> None:
    script = "from distgen.launch.cluster import connect; print(connect('auto').room())"
    driver = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert driver.stdout.strip() == "2 nodes, 2 CPUs, 0 GPUs", driver.stderr


def test_second_cluster_is_refused(nodes: ClusterState) -> None:
    with pytest.raises(UsageError, match="runs on this machine already"):
        cluster.up(1)


def test_submitted_run_is_followed_to_its_end(
    nodes: ClusterState, make_job: MakeJob, tmp_path: Path
) -> None:
    # In the job's own process: the run that is stopped below has workers.
    job = make_job("vae", scaling__workers=0)
    result = distgen(
        *("submit", write(job, tmp_path), "training.images=320"),
        *("--address", nodes.dashboard_url, "--follow"),
    )
    assert result.exit_code == 0, result.output
    assert RunFolder(job.location).is_finished(320)
    assert job.name in result.output
    assert "done" in result.output, "what the run printed was shown"

    (listed,) = json.loads(distgen("jobs", "ls", "--json").stdout)
    assert (listed["kind"], listed["status"], listed["exit_code"]) == ("train", "SUCCEEDED", 0)
    assert "SUCCEEDED" in distgen("jobs", "status", listed["id"]).stdout
    assert "done" in distgen("jobs", "logs", listed["id"]).stdout
    assert "had ended already" in distgen("jobs", "stop", listed["id"]).stdout


@pytest.mark.slow
def test_stopped_job_has_written_its_checkpoint_and_goes_on_by_its_name(
    nodes: ClusterState, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job("vae", training__images=10_000_000, training__log_every=160)
    file = write(job, tmp_path)
    sent = distgen("submit", file, "--json")
    job_id = json.loads(sent.stdout)["id"]
    folder = RunFolder(job.location)
    wait_until(lambda: any(event["event"] == "workers running" for event in folder.events()))
    with pytest.raises(UsageError, match="is a job of this cluster already"):
        distgen("submit", file)
    assert "is stopped" in distgen("jobs", "stop", job_id).stdout
    last = folder.events()[-1]
    assert last["event"] == "stopped"
    assert (folder.checkpoints / f"{last['images_seen']:012d}" / "manifest.json").is_file()
    info = Jobs().info(job_id)
    assert (info.status, info.outcome) == ("STOPPED", 75)

    length = last["images_seen"] + 160
    again = distgen("submit", file, f"training.images={length}", "--follow")
    assert again.exit_code == 0, again.output
    resumed = [event for event in folder.events() if event["event"] == "resumed"]
    assert resumed[-1]["images_seen"] == last["images_seen"]
    assert folder.is_finished(length)


def test_exit_code_of_a_failed_job_is_its_own(nodes: ClusterState) -> None:
    jobs = Jobs(nodes.dashboard_url)
    job_id = jobs.submit("kind: train\nnmae: x\n", name="bad", kind="train", storage="/nowhere")
    printed: list[str] = []
    info = jobs.follow(job_id, printed.append)
    assert (info.status, info.outcome) == ("FAILED", 2)
    assert "nmae: there is no such key; did you mean 'name'" in "".join(printed)


def test_bad_job_file_is_refused_before_it_is_sent(
    nodes: ClusterState, make_job: MakeJob, tmp_path: Path
) -> None:
    before = len(Jobs().list())
    file = write(make_job("vae"), tmp_path)
    with pytest.raises(UsageError, match="batch_size 15 does not divide"):
        distgen("submit", file, "training.batch_size=15")
    with pytest.raises(UsageError, match="nowhere"):
        distgen("submit", file, f"data.shards={tmp_path / 'nowhere'}")
    assert len(Jobs().list()) == before


def test_unknown_job_is_named_with_the_nearest(nodes: ClusterState) -> None:
    known = Jobs().list()[0].id
    with pytest.raises(UsageError, match=known):
        distgen("jobs", "status", known[:-1])


def test_cluster_refuses_without_its_token(nodes: ClusterState) -> None:
    url = f"{nodes.dashboard_url}/api/jobs/"
    assert httpx.get(url, trust_env=False).status_code == 401
    script = f"from distgen.launch.submit import Jobs; Jobs({nodes.dashboard_url!r})"
    environment = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
    environment.pop("RAY_AUTH_MODE", None)
    other = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert "UsageError: The cluster refuses the token." in other.stderr


def test_address_where_nothing_listens_is_named() -> None:
    with pytest.raises(UsageError, match=r"(?s)No Ray cluster answers.*127\.0\.0\.1:9"):
        Jobs("http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"(?s)not the URL of a cluster's dashboard.*http://"):
        Jobs("somewhere")


def test_down_ends_a_damaged_cluster_and_leaves_no_process(nodes: ClusterState) -> None:
    os.kill(nodes.nodes[1].pid, signal.SIGKILL)
    wait_until(lambda: nodes.nodes[1].process() is None)
    assert not cluster.status().healthy
    assert distgen("cluster", "status").exit_code == 1
    assert family(nodes)
    assert "is down" in distgen("cluster", "down").stdout
    assert not family(nodes)
    assert not state_file().exists()
    assert not Path(nodes.temp_dir).exists()
    assert "No cluster of yours ran" in distgen("cluster", "down").stdout
