from __future__ import annotations

import pickle

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError

from distgen.core.errors import DataError, UsageError
from distgen.core.machine import interface_of
from distgen.launch.faults import last_line, root_cause, unwrap

INTERFACES = {
    "docker0": ["172.17.0.1"],
    "eth0": ["10.0.0.7", "fe80::1%eth0"],
    "lo": ["127.0.0.1", "::1"],
}


@pytest.mark.parametrize(
    ("address", "name"),
    [("10.0.0.7", "eth0"), ("127.0.0.1", "lo"), ("fe80::1", "eth0"), ("192.168.0.1", None)],
)
def test_interface_is_the_one_that_carries_the_address(address: str, name: str | None) -> None:
    assert interface_of(address, INTERFACES) == name


def test_our_error_is_found_inside_rays() -> None:
    ours = DataError("bad bytes", where="shard 3", remedy="build it anew")
    travelled = pickle.loads(pickle.dumps(ControllerError(ours)))
    found = unwrap(travelled)
    assert isinstance(found, DataError)
    assert (found.what, found.where, found.remedy) == ("bad bytes", "shard 3", "build it anew")


def test_error_that_is_not_ours_stays_rays() -> None:
    assert unwrap(WorkerGroupError("x", {0: RuntimeError("y")})) is None
    assert unwrap(None) is None


def test_our_error_is_found_as_a_cause() -> None:
    error = RuntimeError("outer")
    error.__cause__ = UsageError("inner")
    assert isinstance(unwrap(error), UsageError)


def test_root_cause_is_the_rank_that_died_first() -> None:
    failures = {
        0: RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.8]"),
        1: ActorDiedError(),
    }
    assert root_cause(failures).startswith("rank 1: its process died")


def test_root_cause_is_a_lost_rank_where_all_that_is_left_is_collateral() -> None:
    failures = {1: RuntimeError("gloo: connection reset")}
    assert root_cause(failures).startswith(
        "rank 1: the process or the node of another rank is gone"
    )


def test_what_an_error_says_in_the_end_is_shown_without_colours() -> None:
    trace = (
        "\x1b[36mray::Worker.run()\x1b[39m (pid=1)\n  File ...\n\x1b[31mImportError: torch\x1b[0m\n"
    )
    assert last_line(RuntimeError(trace)) == "ImportError: torch"
    assert last_line(ValueError()) == "ValueError"
