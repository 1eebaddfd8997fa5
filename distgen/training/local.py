"""`scaling.workers: 0`: the same trainer in this process, without Ray."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from distgen.core import machine
from distgen.core.errors import UsageError
from distgen.core.world import World
from distgen.training.job import TrainJob
from distgen.training.outcome import Outcome, finished_outcome
from distgen.training.run import Tick, open_pictures, prepare
from distgen.training.sizes import rank_bytes
from distgen.training.trainer import OnTick, train


def train_here(job: TrainJob, *, on_tick: OnTick = lambda _: False, fresh: bool = False) -> Outcome:
    """Train on this process's GPU where it has one, else on its CPU cores.

    The same call again resumes, or finds the run finished. SIGINT and SIGTERM ask for a stop
    within seconds; a second SIGINT ends at once.

    Args:
        job: What is trained.
        on_tick: Called with each point of the curves and every few seconds between; True asks for
            a stop.
        fresh: Move an existing run of this name aside and start from nothing.

    Raises:
        UsageError: The shard set is missing or does not fit the model, the networks do not fit
            into memory, or the run's folder belongs to a different job.
        PreemptedError: A stop was asked for; the checkpoint is written.
        TrainingError: A loss is no longer a finite number.
    """
    pictures = open_pictures(job)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _require_memory(device, rank_bytes(job, pictures.spec))
    folder = prepare(job, pictures.fingerprint, fresh=fresh)
    if folder.is_finished(job.training.images, job.training.early_stop):
        return finished_outcome(folder)
    with stop_on_signals() as stop:

        def asked(tick: Tick) -> bool:
            return on_tick(tick) or stop.is_set()

        return train(job, world=World(), device=device, on_tick=asked)


def _require_memory(device: torch.device, need: int) -> None:
    on_gpu = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if on_gpu else None
    found = machine.memory(need, total)
    if found.verdict == "problem":
        raise UsageError(
            "These networks are too large to be trained here.",
            cause=found.text,
            remedy=found.remedy,
        )


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second SIGINT interrupts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals belong to the main thread
        return

    def first(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
