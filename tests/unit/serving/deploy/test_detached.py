"""Endpoints that outlive the command that started them, and how they end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgen.core.birth import started_at
from distgen.core.ports import free_port
from distgen.serving.deploy import detached


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    yield process
    process.kill()
    process.wait()


def _remember(pid: int, started: float, port: int) -> None:
    folder = detached.state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    endpoint = detached.Detached(
        pid=pid, started=started, model="m", url=f"http://127.0.0.1:{port}", log="log"
    )
    (folder / f"{port}.json").write_text(endpoint.model_dump_json())


def test_stop_ends_what_was_started_and_forgets_it(sleeper):
    _remember(sleeper.pid, started_at(sleeper.pid), free_port())
    (endpoint,) = detached.find_all()
    assert not endpoint.is_ready()
    detached.stop(endpoint)
    assert sleeper.poll() is not None
    assert detached.find_all() == []


def test_a_process_that_took_over_the_number_is_left_alone(sleeper):
    _remember(sleeper.pid, time.time() - 10_000, 8000)
    assert detached.find_all() == []
    assert list(detached.state_folder().glob("*.json")) == []
    assert sleeper.poll() is None


def test_unreadable_state_is_removed_and_not_believed(sleeper):
    detached.state_folder().mkdir(parents=True)
    (detached.state_folder() / "8000.json").write_text('{"pid": 1}')
    assert detached.find_all() == []
    assert list(detached.state_folder().iterdir()) == []


def test_endpoints_with_the_same_port_of_different_hosts_keep_their_files_apart():
    urls = [f"http://{host}:8000" for host in ("10.0.0.7", "10.0.0.8", "[::1]", "[::2]", "../a")]
    names = {detached._file_name(url) for url in urls}
    assert len(names) == len(urls)
    assert not [name for name in names if "/" in name or name.startswith(".")]
