"""A run in this process stops gently at the first signal and at once at the second."""

import os
import signal

import pytest

from distgen.core.errors import PreemptedError
from distgen.training.local import stop_on_signals, train_here
from distgen.training.run import RunFolder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_with_a_checkpoint(number, make_job):
    job = make_job("vae")
    before = signal.getsignal(number)

    def interrupt(tick):
        if tick.images_seen == 96:
            os.kill(os.getpid(), number)
        return False

    with pytest.raises(PreemptedError):
        train_here(job, on_tick=interrupt)
    assert signal.getsignal(number) is before
    assert RunFolder(job.location).events()[-1]["event"] == "stopped"
    assert train_here(job).images_seen == job.training.images


def test_the_second_interrupt_interrupts_as_usual():
    # Shells have the programs that they start in the background ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_twice():
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
