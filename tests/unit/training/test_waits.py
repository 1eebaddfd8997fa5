"""What a run has waited for is told in its events, and a full disk is waited for."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest

from distgen.core import stores
from distgen.core.retry import Patience, outlast
from distgen.training import checkpoint
from distgen.training.local import train_here
from distgen.training.run import RunFolder, Tick
from distgen.training.waits import Waits

PATIENCE = Patience(30.0, 30.0, 1.5, 1.5)
FULL = OSError(errno.ENOSPC, "No space left on device")


def fail_once(error: OSError) -> Callable[[], None]:
    left = [error]

    def work() -> None:
        if left:
            raise left.pop()

    return work


@pytest.fixture
def waits():
    listening = Waits()
    listening.open()
    yield listening
    listening.close()


def test_the_longest_wait_of_all_threads_is_told_once(
    waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distgen.training.waits.WORTH_TELLING_S", 0.0)
    quick = Patience(30.0, 30.0, 0.001, 0.001)
    thread = threading.Thread(
        target=outlast, args=(fail_once(OSError("elsewhere")), lambda _: True, quick)
    )
    thread.start()
    thread.join()
    wait = waits.take()
    assert wait is not None
    assert wait.cause == "elsewhere"
    assert waits.take() is None


def test_short_waits_are_no_news(waits: Waits) -> None:
    outlast(fail_once(OSError("briefly")), lambda _: True, Patience(30.0, 30.0, 0.001, 0.001))
    assert waits.take() is None


def test_a_checkpoint_waits_for_room(make_job, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, held_up = make_job("vae", "whole"), make_job("vae", "held-up")
    train_here(whole)
    monkeypatch.setattr(stores, "PATIENCE", PATIENCE)
    write, failures = checkpoint.write, [FULL, FULL]

    def write_where_there_is_room(*arguments):
        if failures:
            raise failures.pop()
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write", write_where_there_is_room)
    monkeypatch.setattr("distgen.training.trainer.LOOK_EVERY_S", 0.0)
    train_here(held_up)
    events = RunFolder(held_up.location).events()
    (told,) = [event for event in events if event["event"] == "storage waited for"]
    assert "No space left" in told["cause"]
    assert told["tries"] == 3
    newest = [checkpoint.complete(RunFolder(j.location).checkpoints)[-1] for j in (whole, held_up)]
    assert (newest[0] / "ema.safetensors").read_bytes() == (
        newest[1] / "ema.safetensors"
    ).read_bytes()


def test_what_is_no_lack_of_room_is_not_waited_for(
    make_job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(checkpoint, "write", refuse)
    ticks: list[Tick] = []
    with pytest.raises(PermissionError):
        train_here(make_job("vae"), on_tick=lambda tick: bool(ticks.append(tick)))
