from __future__ import annotations

from pathlib import Path

import pytest

from distgen.core.errors import UsageError
from distgen.launch.submit import JobInfo, dashboard_url, is_on_this_machine, require_alone


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


def test_address_of_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:1")
    assert dashboard_url("http://head:8265/") == "http://head:8265"
    assert dashboard_url(None) == "http://other:1"


@pytest.mark.parametrize(
    "address", ["head:8265", "ray://head:10001", "http://", "http://h:99999", "http://[bad"]
)
def test_address_that_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="http://HEAD:8265"):
        dashboard_url(address)


def test_no_address_and_no_cluster_says_how_to_get_one() -> None:
    with pytest.raises(UsageError, match="distgen cluster up"):
        dashboard_url(None)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8265", True),
        ("http://localhost:8265", True),
        ("http://[::1]:8265", True),
        ("http://10.0.0.7:8265", False),
        ("https://ray.example.org", False),
    ],
)
def test_paths_are_shared_with_this_machine_only(url: str, here: bool) -> None:
    assert is_on_this_machine(url) is here


@pytest.mark.parametrize(
    ("status", "code", "outcome", "over"),
    [
        ("SUCCEEDED", 0, 0, True),
        ("FAILED", 2, 2, True),
        ("FAILED", None, 1, True),
        ("STOPPED", None, 75, True),
        ("RUNNING", None, 1, False),
    ],
)
def test_exit_code_is_the_jobs(status: str, code: int | None, outcome: int, over: bool) -> None:
    job = JobInfo("a-1", "a", "train", status, 0.0, None, code, "")
    assert job.over is over
    assert not over or job.outcome == outcome


def test_a_run_is_not_sent_while_another_job_writes_it() -> None:
    running = JobInfo("a-1", "a", "train", "RUNNING", 0.0, None, None, "", "/runs")
    ended = JobInfo("a-0", "a", "train", "STOPPED", 0.0, 1.0, None, "", "/runs")
    require_alone([ended], "a", "/runs")
    require_alone([running], "b", "/runs")
    require_alone([running], "a", "/others")
    with pytest.raises(UsageError, match="distgen jobs stop a-1"):
        require_alone([ended, running], "a", "/runs")
