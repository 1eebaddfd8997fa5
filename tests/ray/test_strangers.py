"""What a cluster tells those who have no token, and those who look where anybody can."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from distgen.core.config import dump_yaml
from distgen.core.ports import is_loopback
from distgen.launch import auth, cluster
from distgen.launch.state import ClusterState
from distgen.launch.submit import Jobs
from distgen.launch.upload import choose
from tests.ray.conftest import MakeJob
from tests.ray.open_ports import (
    PATHS,
    Port,
    grpc_answers,
    http_answers,
    listening,
    processes,
    raw_answer,
)

pytestmark = pytest.mark.slow

OPEN_PATHS = {
    "/": "the dashboard's page, which asks for the token before it shows anything",
    "/api/authentication_mode": "by which the page knows that it has to ask",
    "/api/gcs_healthz": "health probes, one word",
    "/api/healthz": "health probes, two words",
}
METRICS = "Ray 2.60 shows metrics to everybody who reaches the port: hence on loopback only"
SECRETS = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "RAY_REDIS_PASSWORD"),
    *("GOOGLE_API_KEY", "MLFLOW_TRACKING_PASSWORD"),
)


@pytest.fixture(scope="module")
def planted() -> Iterator[dict[str, str]]:
    """Secrets in the environment in which the cluster is started and jobs are sent."""
    with pytest.MonkeyPatch.context() as patch:
        values = {name: f"planted{secrets.token_hex(12)}" for name in SECRETS}
        for name, value in values.items():
            patch.setenv(name, value)
        yield values


@pytest.fixture(scope="module")
def nodes(own_surroundings: Path, planted: dict[str, str]) -> Iterator[ClusterState]:
    """A cluster of two node processes."""
    state = cluster.up(2, cpus_per_node=1)
    try:
        yield state
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def ports(nodes: ClusterState) -> list[Port]:
    """Where the cluster's processes listen."""
    return sorted(set(listening(nodes)), key=lambda port: port.number)


def test_every_port_is_on_loopback(ports: list[Port]) -> None:
    assert {"gcs_server", "raylet", "ray::DashboardAgent"} <= {port.process for port in ports}
    assert [port for port in ports if not is_loopback(port.host)] == []


def test_no_call_is_done_without_the_token(ports: list[Port], nodes: ClusterState) -> None:
    number = int(nodes.address.rpartition(":")[2])
    gcs = next(port for port in ports if port.number == number)
    ask = ("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",)
    assert set(grpc_answers(gcs, ask, auth.read_token()).values()) == {grpc.StatusCode.OK}
    refused = set()
    for port in ports:
        codes = grpc_answers(port)
        assert grpc.StatusCode.OK not in codes.values(), (port, codes)
        if grpc.StatusCode.UNAUTHENTICATED in codes.values():
            refused.add(port.process)
    assert {"gcs_server", "raylet", "ray::DashboardAgent"} <= refused, "these speak gRPC"


def test_no_page_is_shown_without_the_token(ports: list[Port], nodes: ClusterState) -> None:
    dashboard = int(nodes.dashboard_url.rpartition(":")[2])
    metrics = set()
    for port in ports:
        known = http_answers(port, auth.read_token()) if port.number == dashboard else {}
        answers = http_answers(port)
        if answers and all(answer.text.startswith("# HELP") for answer in answers.values()):
            metrics.add(port)
            continue
        for path, answer in answers.items():
            if path in OPEN_PATHS and answer.is_success:
                assert len(answer.content) < 4096
                assert nodes.temp_dir not in answer.text
            else:
                assert answer.status_code in (400, 401, 403), (port, path, answer)
        if known:
            assert known["/api/jobs/"].status_code == 200, "with the token there is an answer"
            assert answers["/api/jobs/"].status_code == 401
            assert answers.keys() == set(PATHS)
    assert metrics, METRICS
    assert all(is_loopback(port.host) for port in metrics), METRICS


@pytest.mark.parametrize("text", [b"\x80\x04.\r\n\r\n", b"INFO\r\n", b"GET / HTTP/0.9\r\n\r\n"])
def test_bytes_that_are_no_request_get_no_data(
    text: bytes, ports: list[Port], nodes: ClusterState
) -> None:
    token = auth.read_token().encode()
    for port in ports:
        answer = raw_answer(port, text)
        assert token not in answer, port
        assert nodes.temp_dir.encode() not in answer, port
    assert sorted(set(listening(nodes)), key=lambda port: port.number)[0].process


def everything_shown(state: ClusterState) -> str:
    """What the dashboard's interfaces tell those who have the token."""
    headers = {"Authorization": f"Bearer {auth.read_token()}"}
    paths = (
        *("/api/jobs/", "/api/v0/jobs", "/api/v0/actors", "/api/v0/workers", "/api/v0/nodes"),
        *("/api/v0/runtime_envs", "/nodes?view=details", "/nodes?view=summary"),
        *("/logical/actors", "/api/cluster_status", "/events"),
    )
    with httpx.Client(trust_env=False, timeout=60.0, headers=headers) as client:
        return "".join(client.get(f"{state.dashboard_url}{path}").text for path in paths)


def files_below(folder: str) -> Iterator[Path]:
    """Regular files; sockets and links are none."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path


def test_no_secret_is_in_logs_lists_of_processes_or_the_dashboard(
    nodes: ClusterState, planted: dict[str, str], make_job: MakeJob, tmp_path: Path
) -> None:
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / ".env").write_text(planted["HF_TOKEN"])
    (tmp_path / "sent" / "notes.txt").write_text("a file that is sent")
    job = make_job("vae", training__images=320)
    jobs = Jobs(nodes.dashboard_url)
    job_id = jobs.submit(
        dump_yaml(job),
        name=job.name,
        kind="train",
        storage=job.storage,
        upload=choose(tmp_path / "sent"),
    )
    seen: list[str] = []
    lines = [*planted.values(), auth.read_token()]

    def look(_: str) -> None:
        command = ["ps", "axww", "-o", "args="]
        seen.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        seen.append(everything_shown(nodes))

    info = jobs.follow(job_id, look)
    assert info.status == "SUCCEEDED", jobs.logs(job_id)
    look("")
    shown = "".join(seen)
    assert job_id in shown, "the dashboard was asked"
    assert "raylet" in shown, "processes were listed"
    assert any(
        process.environ().get("HF_TOKEN") == planted["HF_TOKEN"]
        for process in processes(nodes).values()
        if process.status() != psutil.STATUS_ZOMBIE
    ), "the cluster has the secrets"
    for name, secret in (*planted.items(), ("token", auth.read_token())):
        assert secret not in shown, f"{name} is shown"
        assert secret not in json.dumps(info.__dict__)
        assert secret not in jobs.logs(job_id)
    places = [*files_below(nodes.temp_dir), *files_below(job.storage)]
    assert any("job-driver" in path.name for path in places), "Ray's logs were looked into"
    assert any(path.name == "notes.txt" for path in places), "what was sent was looked into"
    for path in places:
        data = path.read_bytes()
        for line in lines:
            assert line.encode() not in data, f"a secret is in {path}"
