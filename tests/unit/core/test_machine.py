from __future__ import annotations

import resource
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from distgen.core import machine
from distgen.core.ports import free_port

MIB, GIB = 2**20, 2**30
Disk = Callable[..., None]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk of this size with so much free, whatever is asked about."""

    def be(total: int, free: int) -> None:
        usage = shutil._ntuple_diskusage(total, total - free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    return be


@pytest.mark.parametrize(
    ("total", "free", "verdict"),
    [
        (100 * GIB, 50 * GIB, "ok"),
        (100 * GIB, 4 * GIB, "warning"),  # above 95 % Ray spills nothing
        (10 * GIB, 1 * GIB, "warning"),
        (100 * GIB, 400 * MIB, "problem"),
    ],
)
def test_disk_of_a_session_is_judged_by_what_ray_does_with_it(
    disk: Disk, tmp_path: Path, total: int, free: int, verdict: str
) -> None:
    disk(total, free)
    found = machine.session_disk(tmp_path)
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict != "ok")
    assert str(tmp_path) in found.text


@pytest.mark.parametrize(
    ("checkpoint", "free", "verdict"),
    [
        (0, 3 * GIB, "ok"),
        (0, 1 * GIB, "warning"),
        (0, 100 * MIB, "problem"),
        (4 * GIB, 20 * GIB, "ok"),
        (4 * GIB, 10 * GIB, "warning"),
        (4 * GIB, 3 * GIB, "problem"),
    ],
)
def test_disk_of_a_storage_is_judged_by_the_size_of_a_checkpoint(
    disk: Disk, tmp_path: Path, checkpoint: int, free: int, verdict: str
) -> None:
    disk(1000 * GIB, free)
    found = machine.storage_disk(tmp_path, checkpoint)
    assert found.verdict == verdict
    assert ("a checkpoint takes 4.0 GiB" in found.text) == (verdict == "problem" and checkpoint > 0)


def test_folder_that_is_not_there_yet_is_judged_by_the_disk_that_it_would_be_on(
    tmp_path: Path,
) -> None:
    assert f"at {tmp_path}" in machine.storage_disk(tmp_path / "a" / "b").text


@pytest.mark.parametrize(
    ("total", "free", "verdict"),
    [(8 * GIB, 7 * GIB, "ok"), (64 * MIB, 60 * MIB, "warning"), (64 * MIB, 20 * MIB, "problem")],
)
def test_shared_memory_is_judged_by_what_the_ranks_take(
    disk: Disk, total: int, free: int, verdict: str
) -> None:
    disk(total, free)
    found = machine.shared_memory(32 * MIB)
    assert found.verdict == verdict
    assert ("--shm-size" in found.remedy) == (verdict != "ok")


def test_memory_is_judged_by_what_a_rank_keeps() -> None:
    assert machine.memory(MIB).verdict == "ok"
    too_much = machine.memory(1 << 60)
    assert too_much.verdict == "problem"
    assert "this machine has" in too_much.text
    assert machine.memory(3 * GIB, 4 * GIB).verdict == "ok"
    assert "its GPU has 2.0 GiB" in machine.memory(3 * GIB, 2 * GIB).text


def test_system_without_shared_memory_is_none_the_worse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "shm")
    assert machine.shared_memory(GIB).verdict == "ok"


@pytest.mark.parametrize(
    ("limits", "verdict", "said"),
    [
        ((65_536, 65_536), "ok", ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "ok", ""),
        ((1024, 20_000), "warning", "ulimit -n 20000 before"),
        ((1024, 1024), "warning", "ulimit -n 65536 (as root)"),
        ((1024, resource.RLIM_INFINITY), "warning", "ulimit -n 65536 before"),
    ],
)
def test_limit_of_open_files_comes_with_one_that_may_be_set(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], verdict: str, said: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    found = machine.open_files()
    assert found.verdict == verdict
    assert said in found.remedy


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"eth0": ["10.0.0.7"], "lo": ["127.0.0.1"]}
    monkeypatch.setattr(machine, "own_interfaces", lambda: known)
    monkeypatch.delenv(machine.INTERFACE, raising=False)


@pytest.mark.usefixtures("interfaces")
@pytest.mark.parametrize(
    ("address", "told", "alone", "verdict", "said"),
    [
        ("10.0.0.7", None, False, "ok", "eth0 with 10.0.0.7"),
        ("127.0.0.1", None, True, "ok", "lo with"),
        ("127.0.0.1", None, False, "problem", "reaches this machine only"),
        ("192.168.0.1", None, False, "warning", "none has this node's address"),
        ("192.168.0.1", "eth0", False, "ok", "as GLOO_SOCKET_IFNAME says"),
        ("10.0.0.7", "eth1", False, "problem", "names none of this machine"),
    ],
)
def test_interface_is_the_one_that_gloo_will_take(
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    told: str | None,
    alone: bool,
    verdict: str,
    said: str,
) -> None:
    if told:
        monkeypatch.setenv(machine.INTERFACE, told)
    found = machine.interface(address, alone=alone)
    assert (found.verdict, said in found.text) == (verdict, True), found


def test_taken_port_is_named_with_what_to_do_about_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken, free = server.getsockname()[1], free_port()
        found = machine.free_ports({taken: "take another", free: "nothing"})
    assert (found.verdict, found.text, found.remedy) == (
        "warning",
        f"taken: {taken}",
        "take another",
    )
    assert machine.free_ports({free: "nothing"}).verdict == "ok"


@pytest.mark.parametrize(
    ("seen", "verdict", "said"),
    [
        ("Process 7: python\nThread 7 (idle)", "ok", ""),
        ("Error: Permission Denied: Try running again\n", "warning", "SYS_PTRACE"),
        ("py-spy is not installed: pip install py-spy", "warning", "pip install py-spy"),
        ("", "warning", "SYS_PTRACE"),
    ],
)
def test_stacks_that_cannot_be_seen_are_found_before_they_are_needed(
    seen: str, verdict: str, said: str
) -> None:
    found = machine.stack_dumps(seen)
    assert (found.verdict, said in found.remedy) == (verdict, True)


def test_a_name_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(machine.time, "monotonic", lambda: clock[0])

    def unanswered(_: str) -> None:
        clock[0] += 10.0
        raise socket.herror(2, "Host name lookup failure")

    def nameless(_: str) -> None:
        clock[0] += 0.01
        raise socket.herror(1, "Unknown host")

    found = machine.names("10.0.0.7", unanswered)
    assert found.verdict == "warning"
    assert "10.0 s to learn that of 10.0.0.7" in found.text
    assert "/etc/hosts" in found.remedy
    assert machine.names("10.0.0.7", nameless).verdict == "ok", "no name is an answer"
