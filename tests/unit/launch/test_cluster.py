from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.birth import started_at
from distgen.core.errors import DistgenError, PreemptedError, TrainingError, UsageError
from distgen.launch import cluster, environment, nodes, state
from distgen.launch.cluster import Connection, Room, slots
from distgen.launch.preflight import require_room
from distgen.training.scaling import ScalingConfig

AMOUNTS = st.integers(0, 16).map(float)
NODES = st.lists(st.fixed_dictionaries({"CPU": AMOUNTS, "GPU": AMOUNTS}), max_size=5)
NEEDS = st.fixed_dictionaries({"CPU": st.sampled_from([0.5, 1.0, 2.0, 3.0]), "GPU": AMOUNTS})


@given(NODES, NEEDS)
def test_slots_fill_nodes_and_never_more(have: list[dict], need: dict) -> None:
    count = slots(have, need)
    for name, amount in need.items():
        total = sum(node[name] for node in have)
        assert count * amount <= total
    # One node more gives at least what it holds, and order does not matter.
    assert slots(list(reversed(have)), need) == count
    assert slots([*have, need], need) == count + 1


@given(NODES, st.integers(1, 10))
def test_slots_of_fractions_count_as_ray_counts(have: list[dict], parts: int) -> None:
    whole = sum(int(node["CPU"]) for node in have)
    assert slots(have, {"CPU": 10_000 // parts / 10_000}) >= whole * parts


def test_worker_is_not_split_over_nodes() -> None:
    assert slots([{"CPU": 1.0}, {"CPU": 1.0}], {"CPU": 2.0}) == 0


def test_refusal_says_what_there_is_and_what_would_fit() -> None:
    room = Room(({"CPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}))
    with pytest.raises(UsageError) as raised:
        require_room(ScalingConfig(workers=3, cpus_per_worker=2), room)
    assert "3 workers with 2 CPUs each do not fit" in raised.value.what
    assert "2 nodes, 4 CPUs, 1 GPUs" in raised.value.what
    assert "scaling.workers=2" in (raised.value.remedy or "")


def test_cluster_that_can_grow_is_given_the_benefit_of_the_doubt() -> None:
    require_room(ScalingConfig(workers=100), Room(({"CPU": 1.0},), can_grow=True))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "distgen submit"),
        ("nonsense", "host:port"),
        ("host:", "host:port"),
        ("127.0.0.1:9", "No Ray cluster answers"),
        ("auto", "distgen cluster up"),
    ],
)
def test_wrong_address_says_what_to_write(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError) as raised:
        cluster.connect(address)
    assert said in str(raised.value)


def test_cluster_of_other_versions_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UsageError, match="has other versions than this process") as raised:
        cluster._join("10.0.0.1:6379")
    assert "Ray: 2.59.0" in (raised.value.cause or "")


def test_folder_of_sessions_is_private_and_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    root = environment.temp_root()
    assert root == Path(f"/tmp/distgen-{os.getuid()}")
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 50)))
    with pytest.raises(UsageError, match="too long for Ray's sockets"):
        environment.temp_root()


def test_state_survives_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state.read_state() is None
    known = state.ClusterState("h:1", "http://127.0.0.1:2", str(tmp_path / "gone"), 1, 0)
    known.nodes.append(state.NodeProcess(2**22 + 1, 0.0, "log"))
    state.write_state(known)
    assert state.read_state() == known
    assert not nodes.status().healthy
    # A cluster whose processes have all died is in nobody's way.
    nodes._refuse_second_cluster()
    assert state.read_state() is None


def test_damaged_state_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    state.state_file().parent.mkdir(parents=True)
    state.state_file().write_text('{"address": 1}')
    with pytest.raises(UsageError, match=r"cluster\.json"):
        state.read_state()


def test_process_id_that_was_given_to_another_process_is_not_ours() -> None:
    me = psutil.Process()
    assert state.NodeProcess(me.pid, started_at(), "").process() == me
    assert state.NodeProcess(me.pid, started_at() - 60, "").process() is None


def test_taken_port_is_refused_where_it_was_asked_for() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        assert nodes._choose_port(None, port) != port
        with pytest.raises(UsageError, match=str(port)):
            nodes._choose_port(port, 1)


@pytest.mark.parametrize(
    ("alive", "registered", "healthy"), [(2, 2, True), (2, 3, True), (1, 3, False), (2, 1, False)]
)
def test_cluster_that_others_have_joined_is_as_whole_as_its_own_nodes(
    alive: int, registered: int, healthy: bool
) -> None:
    known = state.ClusterState("h:1", "http://127.0.0.1:2", "/tmp", 1, 0)
    known.nodes += [state.NodeProcess(2, 0.0, "log")] * 2
    seen = nodes.ClusterStatus(known, alive, registered, answers=True)
    assert seen.healthy is healthy


def test_log_of_a_node_that_did_not_start_is_kept_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("XDG_STATE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no room for a raylet\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(DistgenError, match="did not come up") as raised:
        nodes.up(1)
    assert raised.value.where is not None
    assert Path(raised.value.where).read_text() == "no room for a raylet\n"
    assert nodes.read_state() is None


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (None, False),
        (UsageError("a wrong key"), False),
        (PreemptedError("stopped"), False),
        (KeyboardInterrupt(), False),
        (TrainingError("given up"), True),
        (RuntimeError("unforeseen"), True),
    ],
)
def test_logs_of_a_private_cluster_stay_where_they_may_explain_something(
    tmp_path: Path, error: BaseException | None, kept: bool
) -> None:
    session = tmp_path / "session"
    session.mkdir()
    connection = Connection("127.0.0.1:1", None, session, connected_here=True, started_here=True)
    connection.__exit__(type(error) if error else None, error, None)
    assert session.exists() == kept
