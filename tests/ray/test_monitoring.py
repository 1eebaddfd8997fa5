"""A real Prometheus with our configuration and rules watches a real run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from distgen.core.config import dump_yaml
from distgen.core.ports import free_port
from distgen.launch import cluster
from distgen.launch.state import ClusterState
from tests.ray.conftest import MakeJob

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
    ),
]

CONFIGURATION = Path(__file__).parents[2] / "infra" / "prometheus"
RUN = "watched-run"


@pytest.fixture(scope="module")
def node(own_surroundings: Path) -> Iterator[ClusterState]:
    """A cluster whose agents report every second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        state = cluster.up(1, cpus_per_node=2)
        try:
            yield state
        finally:
            cluster.down()


@pytest.fixture(scope="module")
def driver(
    node: ClusterState, make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.Popen[bytes]]:
    """`distgen train` on that cluster; the run is far too long to end by itself."""
    folder = tmp_path_factory.mktemp("driver")
    job = make_job("vae", name=RUN, training__images=10_000_000, training__log_every=160)
    (folder / "job.yaml").write_text(dump_yaml(job))
    command = [sys.executable, "-m", "distgen", "train", "job.yaml", "--address", "auto"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    """The code of this checkout, from whatever folder."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def ask(
    node: ClusterState, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Queries to a Prometheus that was set up as infra/README.md says, but looks every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(CONFIGURATION, folder, dirs_exist_ok=True)
    config = (folder / "prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(config.replace("_interval: 15s", "_interval: 1s"))
    (folder / "targets").mkdir()
    listed = Path(node.temp_dir) / "prom_metrics_service_discovery.json"
    (folder / "targets" / "cluster.json").symlink_to(listed)
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def query(expression: str) -> list[dict[str, Any]]:
        assert process.poll() is None, (folder / "log").read_text()
        answer = httpx.get(
            f"{url}/api/v1/query", params={"query": expression}, trust_env=False
        ).raise_for_status()
        return answer.json()["data"]["result"]

    try:
        wait_for(lambda: answers(f"{url}/-/ready"))
        yield query
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        time.sleep(0.5)
    return found


def value(result: list[dict[str, Any]]) -> float:
    (only,) = result
    return float(only["value"][1])


def test_prometheus_sees_a_run_by_its_rules_and_misses_it_when_its_driver_dies(
    driver: subprocess.Popen[bytes], ask: Callable[[str], list[dict[str, Any]]]
) -> None:
    of_run = f'{{run="{RUN}"}}'
    wait_for(lambda: driver.poll() is not None or ask(f"run:distgen_train_progress:ratio{of_run}"))
    assert driver.poll() is None, "the run has ended"
    assert 0 < value(ask(f"run:distgen_train_progress:ratio{of_run}")) < 1
    assert 0 <= value(ask(f"run:distgen_train_silence:seconds{of_run}")) < 60
    assert value(ask(f"ray_distgen_train_images_per_second{of_run}")) > 0
    assert 0 <= value(ask(f"ray_distgen_train_data_wait_ratio{of_run}")) <= 1
    assert value(ask(f"ray_distgen_train_workers{of_run}")) == 2
    wait_for(lambda: len(ask(f"ray_distgen_train_shm_used_ratio{of_run}")) == 2)
    wait_for(lambda: events(ask, RUN) >= {"started", "workers running", "checkpoint"})
    assert value(ask('count(up{job="ray"} == 0) or vector(0)')) == 0
    wait_for(lambda: ask("node:distgen_disk_used:ratio"))
    wait_for(lambda: ask("node:distgen_object_store_used:ratio"))
    assert not ask('{otel_scope_name!=""}'), "what is the same everywhere is dropped"

    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not ask(f"run:distgen_train_silence:seconds{of_run}"))
    alert = f'ALERTS{{alertname="DistgenRunVanished", run="{RUN}"}}'
    assert wait_for(lambda: ask(alert))[0]["metric"]["alertstate"] == "pending"


def events(ask: Callable[[str], list[dict[str, Any]]], run: str) -> set[str]:
    """Kinds of events that were counted lately."""
    found = ask(f'run_event:distgen_train_events:increase15m{{run="{run}"}} > 0')
    return {series["metric"]["event"] for series in found}


def test_the_cluster_lists_its_agents_where_the_configuration_looks(node: ClusterState) -> None:
    listed = Path(node.temp_dir) / "prom_metrics_service_discovery.json"
    wait_for(listed.is_file)
    (entry,) = json.loads(listed.read_text())
    assert entry["labels"] == {"job": "ray"}
    assert entry["targets"]
