from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distgen.core import reach
from distgen.core.errors import UsageError
from distgen.core.finding import ok, problem, warning
from distgen.core.machine import INTERFACE
from distgen.data import open_shard_set
from distgen.launch.cluster import Room
from distgen.launch.doctor import asks_for_token, membership
from distgen.launch.examine import MEMORY, Look, essentials
from distgen.launch.preflight import judge, require_memory, witnesses_of_set
from distgen.launch.probe import NoAnswer

FULL = problem("disk", "0.1 GiB free", "df -h")
APART = problem("storage", "storage is not shared: /runs is another folder here", "a shared folder")
TIGHT = warning("/dev/shm", "64 MiB", "--shm-size=4g")


def refusal(found: dict, messages: list[str] | None = None) -> UsageError:
    with pytest.raises(UsageError) as raised:
        judge(found, [].append if messages is None else messages.append)
    return raised.value


def test_nodes_without_a_problem_may_train() -> None:
    messages: list[str] = []
    judge({"a": [ok("disk", "")], "b": [ok("disk", "")]}, messages.append)
    assert not messages


def test_refusal_names_node_thing_and_remedy() -> None:
    error = refusal({"a (10.0.0.1)": [ok("storage", "")], "b (10.0.0.2)": [APART]})
    assert "Node b (10.0.0.2) cannot take part" in error.what
    assert ": storage is not shared: /runs" in error.what
    assert "a shared folder" in (error.remedy or "")
    assert "disk: 0.1 GiB free" in refusal({"a": [FULL]}).what


def test_refusal_names_all_that_is_wrong_and_each_thing_once() -> None:
    error = refusal({"a": [APART], "b": [FULL, APART], "c": [APART], "d": [FULL]})
    assert "Node a and 2 others cannot" in error.what
    assert error.cause == "also, Nodes b and d: 0.1 GiB free"


def test_warnings_are_told_once_and_refuse_nothing() -> None:
    messages: list[str] = []
    judge({"a": [TIGHT], "b": [TIGHT]}, messages.append)
    assert messages == ["Nodes a and b: /dev/shm: 64 MiB. Try: --shm-size=4g"]
    refusal({"a": [TIGHT, FULL]}, messages)
    assert len(messages) == 2, "they are told beside a refusal too"


def test_silent_node_is_left_to_ray() -> None:
    messages: list[str] = []
    judge({"a": [], "b": NoAnswer("does not answer within 30 s")}, messages.append)
    assert messages == ["Node b does not answer within 30 s; if it is lost, Ray notices."]


def test_machine_is_looked_at_for_all_that_a_rank_needs(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(INTERFACE, raising=False)
    witnesses = witnesses_of_set(open_shard_set(digits, "train"))
    with reach.marked(str(tmp_path)) as mark:
        look = Look(
            name="a",
            address="127.0.0.1",
            sessions=str(tmp_path),
            storage=str(tmp_path),
            mark=mark,
            shards=digits,
            witnesses=witnesses,
        )
        found = {finding.subject: finding for finding in essentials(look)}
    assert list(found) == ["interface", "disk", "storage disk", "/dev/shm", "storage", "shards"]
    assert found["storage"].verdict == found["shards"].verdict == found["interface"].verdict == "ok"
    assert not list(tmp_path.iterdir())


def test_networks_are_refused_only_where_no_node_can_hold_them(tmp_path: Path) -> None:
    look = Look(name="a", address="127.0.0.1", sessions=str(tmp_path), storage=str(tmp_path))
    (roomy,) = [f for f in essentials(replace(look, memory_bytes=1)) if f.subject == MEMORY]
    (short,) = [f for f in essentials(replace(look, memory_bytes=1 << 60)) if f.subject == MEMORY]
    assert (roomy.verdict, short.verdict) == ("ok", "warning")
    silent = NoAnswer("does not answer within 30 s")
    require_memory([[roomy], [short], silent])
    require_memory([silent])
    with pytest.raises(UsageError, match=r"too large for every node(?s:.*)this machine has"):
        require_memory([[short], [short], silent])


def test_lost_node_is_told_though_all_others_are_well() -> None:
    room = Room(({"CPU": 2.0}, {"CPU": 2.0}))
    assert membership(room, []) == ok("nodes", "2 nodes, 4 CPUs, 0 GPUs")
    found = membership(room, ["b (10.0.0.2)"])
    assert (found.verdict, "b (10.0.0.2)" in found.text) == ("warning", True)


@pytest.fixture
def dashboard() -> Iterator[Callable[[int], str]]:
    """A server that answers every request with this status."""
    servers = []

    def start(status: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_cluster_that_answers_without_a_token_is_told(dashboard: Callable[[int], str]) -> None:
    assert asks_for_token(dashboard(401)).verdict == "ok"
    open_door = asks_for_token(dashboard(200))
    assert (open_door.verdict, "without a token" in open_door.text) == ("warning", True)
    assert "RAY_AUTH_MODE=token" in open_door.remedy
    assert asks_for_token(dashboard(500)).verdict == "warning"
    assert asks_for_token("http://127.0.0.1:9").verdict == "warning"
    assert asks_for_token(None).verdict == "warning"
