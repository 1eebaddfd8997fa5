"""One trial of a search, in a Ray actor of its own: a training whose cards become results."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from ray.tune import Trainable

from distgen.core.config import parse
from distgen.core.errors import DistgenError
from distgen.launch import train
from distgen.launch.environment import prepare_environment
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder

CLOCK = "images_seen"
POLL_S = 0.5
STOP_TIMEOUT_S = 120.0
"""A stopped trial's workers have this long for their checkpoint before they are killed."""


class TrialRun(Trainable):  # type: ignore[misc]
    """Trains one point; each quality card is one result, and a stop stops the workers.

    Tune offers functions as trials too, but ends them by killing their actor, and the workers
    would have to notice that by themselves. Here `cleanup` ends them, with a checkpoint.

    A trial that was trained before, wholly or in part, reports its old cards first and goes on
    from its checkpoint, so that a search is resumed by running it again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start training in a thread; Tune's calls come in this one."""
        prepare_environment()
        self._job = parse(TrainJob, config["trial"]["job"], "a trial's job")
        self._folder = RunFolder(self._job.location)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._reported = 0
        self._last: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def _train(self) -> None:
        try:
            train.run(self._job, stop=self._stop, on_message=lambda _: None)
        except BaseException as error:  # handed to `step`, which Tune listens to
            self._error = error

    def step(self) -> dict[str, Any]:
        """Wait for the next card.

        Raises:
            RuntimeError: The training failed; the message is its error's.
        """
        while True:
            over = not self._thread.is_alive()
            card = next(iter(cards(self._folder.metrics(), after=self._reported)), None)
            if card is not None and (over or card[CLOCK] < self._job.training.images):
                self._reported = card[CLOCK]
                self._last = card
                return {**card, "done": card[CLOCK] >= self._job.training.images}
            if over:
                return self._ended()
            time.sleep(POLL_S)

    def _ended(self) -> dict[str, Any]:
        if isinstance(self._error, DistgenError):
            # Tune sends errors about as text; ours says what to do in its own words.
            raise RuntimeError(f"{os.linesep}{self._error}") from None
        if self._error is not None:
            raise self._error
        return {**self._last, "done": True}

    def cleanup(self) -> None:
        """Stop the workers after a checkpoint; nothing happens where they have ended."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)


def cards(rows: list[dict[str, Any]], after: int = 0) -> list[dict[str, Any]]:
    """The quality cards among a run's metrics beyond `after` images, oldest first."""
    return [
        {CLOCK: int(row[CLOCK]), **row["card"]}
        for row in rows
        if row.get("stage") == "card" and int(row[CLOCK]) > after
    ]
