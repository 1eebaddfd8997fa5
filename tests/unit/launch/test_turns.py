"""Runs start in the order in which they came, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.errors import PreemptedError
from distgen.launch import turns
from distgen.launch.turns import Turn, in_line, stop_on_term, ticket, waiting_for
from distgen.training.scaling import ScalingConfig

TICKETS = st.lists(
    st.tuples(st.integers(0, 2**63), st.sampled_from(["01000000", "02000000", "0a000000"])),
    unique=True,
)


@given(TICKETS, st.sets(st.sampled_from(["01000000", "02000000", "0a000000"])))
def test_who_came_first_is_first_and_the_dead_are_passed_over(
    came: list[tuple[int, str]], alive: set[str]
) -> None:
    expected = sorted(each for each in came if each[1] in alive)
    assert in_line([ticket(*each) for each in came], alive) == [ticket(*each) for each in expected]


def test_what_is_waited_for_is_said() -> None:
    wide = ScalingConfig(workers=2, cpus_per_worker=4, gpus_per_worker=0.5)
    assert waiting_for(wide, 0) == (
        "Waiting for a place for 2 workers with 4 CPUs and 0.5 GPUs each; "
        "other jobs hold the cluster."
    )
    one = ScalingConfig(workers=(1, 4))
    assert waiting_for(one, 1).endswith("1 worker with 1 CPUs each; 1 run comes first.")
    assert waiting_for(one, 3).endswith("3 runs come first.")


class Line:
    """A cluster's store and tables, in memory; `ray` is asked for its job's id alone."""

    def __init__(self) -> None:
        self.tickets: set[str] = set()
        self.alive = {"aa"}
        self.free = [{"CPU": 1.0}]


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    import ray

    found = Line()
    context = type("Context", (), {"get_job_id": lambda self: "aa"})()
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(turns, "_put", found.tickets.add)
    monkeypatch.setattr(turns, "_remove", found.tickets.discard)
    monkeypatch.setattr(turns, "_tickets", lambda: list(found.tickets))
    monkeypatch.setattr(turns, "_alive", lambda: found.alive)
    monkeypatch.setattr(turns, "_free", lambda: found.free)
    monkeypatch.setattr(turns, "POLL_S", 0.0)
    return found


def test_places_are_waited_for_with_a_message_and_the_next_comes_afterwards(line: Line) -> None:
    said: list[str] = []

    def hear(text: str) -> None:
        said.append(text)
        line.free = [{"CPU": 2.0}]

    with Turn(ScalingConfig(workers=2), hear) as turn:
        turn.wait()
        assert len(line.tickets) == 1, "nobody else comes while the workers start"
        turn.wait()
        turn.leave()
        assert not line.tickets
    assert len(said) == 1
    assert "other jobs hold the cluster" in said[0]


def test_an_earlier_run_is_let_pass_although_there_is_room(line: Line) -> None:
    line.alive.add("bb")
    line.tickets.add(ticket(1, "bb"))
    said: list[str] = []

    def hear(text: str) -> None:
        said.append(text)
        line.tickets.discard(ticket(1, "bb"))

    with Turn(ScalingConfig(workers=1), hear) as turn:
        turn.wait()
    assert said == [waiting_for(ScalingConfig(workers=1), 1)]


def test_a_run_that_died_in_line_holds_nobody_up(line: Line) -> None:
    line.tickets.add(ticket(1, "bb"))
    with Turn(ScalingConfig(workers=1), pytest.fail) as turn:
        turn.wait()


def test_who_is_stopped_while_waiting_leaves_the_line(line: Line) -> None:
    line.free = []
    turn = Turn(ScalingConfig(workers=1), lambda _: None)
    with pytest.raises(PreemptedError) as caught, turn:
        turn.wait(lambda: True)
    assert caught.value.exit_code == 75
    assert not line.tickets


def test_a_term_signal_is_a_wish_to_stop() -> None:
    with stop_on_term() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()


def test_a_process_that_waits_has_not_loaded_torch() -> None:
    script = (
        "import sys, distgen.cli.main, distgen.launch.turns, distgen.launch.cluster;"
        "import ray; print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.stdout.strip() == "False", answer.stderr
