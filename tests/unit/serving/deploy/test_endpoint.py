"""Whether an endpoint fits into a cluster, how its start ends, and what may be ended for it."""

from __future__ import annotations

import pytest

from distgen.core.errors import UsageError
from distgen.launch.cluster import Room
from distgen.serving.deploy.endpoint import Placement, problem_of, require_room, what_to_end

HEAD = {"CPU": 1.0, "node:__internal_head__": 1.0}
NODES = (HEAD, {"CPU": 8.0, "GPU": 1.0})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_replicas_on_loopback_must_fit_onto_the_head(host):
    require_room(Placement(host), Room(NODES))
    for can_grow in (False, True):
        with pytest.raises(UsageError, match="2 replicas with a CPU each do not fit") as error:
            require_room(Placement(host, replicas=2), Room(NODES, can_grow))
        assert "room for 1 of them on the head" in str(error.value)
        assert "--replicas 1; or --host" in str(error.value)


def test_other_replicas_may_be_on_any_node_but_not_split_over_two():
    require_room(Placement("10.0.0.1", replicas=9), Room(NODES))
    with pytest.raises(UsageError, match="room for 9 of them"):
        require_room(Placement("10.0.0.1", replicas=10), Room(NODES))
    require_room(Placement("10.0.0.1", replicas=10), Room(NODES, can_grow=True))
    with pytest.raises(UsageError, match=r"a CPU and 0\.6 GPUs") as error:
        require_room(Placement("10.0.0.1", replicas=2, gpus_per_replica=0.6), Room(NODES))
    assert "--replicas 1" in str(error.value)


def test_a_start_ends_with_success_with_failure_or_with_its_time():
    assert problem_of("RUNNING", [""], in_time=False) == ""
    for status in ("NOT_STARTED", "DEPLOYING"):
        assert problem_of(status, ["", "1 replica\n waits for CPUs"], in_time=True) is None
    late = problem_of("DEPLOYING", ["", "1 replica\n waits for CPUs"], in_time=False)
    assert late == "not all replicas started in time: 1 replica waits for CPUs"
    assert "taken by other jobs" in str(problem_of("DEPLOYING", [], in_time=False))
    assert problem_of("DEPLOY_FAILED", ["no model", ""], in_time=True) == "no model"


def test_of_a_traceback_only_an_error_of_ours_is_said():
    said = "The replica failed: Traceback:\n File x\n{}\n where: here\n"
    ours, theirs = "distgen.core.errors.DataError: It is broken.", "torch.Error: no\n File y\n"
    told = problem_of("DEPLOY_FAILED", [said.format(theirs + ours)], in_time=True)
    assert told == "It is broken. where: here"
    told = problem_of("DEPLOY_FAILED", [said.format(theirs)], in_time=True)
    assert str(told).endswith("Traceback: File x torch.Error: no File y where: here")


@pytest.mark.parametrize(
    ("applications", "is_serving", "end"),
    [
        ((), False, "nothing"),
        ((), True, "all"),
        (("distgen",), True, "all"),
        (("distgen", "theirs"), True, "ours"),
        (("theirs",), True, "nothing"),
    ],
)
def test_only_what_is_ours_is_ended(applications, is_serving, end):
    assert what_to_end(applications, is_serving) == end
