"""Where a run's curves go: `metrics.jsonl` always, TensorBoard where the run is on a disk."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

from tensorboardX import SummaryWriter

from distgen.metrics.card import Card
from distgen.training.run import RunFolder, Tick
from distgen.training.signals import Graded


def grade_of(card: Card, images_seen: int) -> Graded:
    """What health and early stopping need of a quality card."""
    first = card.extractors[0]
    return Graded(
        images_seen=images_seen,
        headline=card.headline,
        floor=first.floor.frechet_distance,
        coverage=first.generated.coverage,
        yardstick=" ".join(card.yardstick.values()),
    )


class Writer:
    """Rank 0's pen for the curves, positioned at a restored clock."""

    def __init__(self, run: RunFolder, images_seen: int) -> None:
        self._run = run
        self._board = self._open(images_seen)

    def tick(self, tick: Tick) -> None:
        """Write one point: losses, speed, data wait, memory."""
        self._run.log(tick)
        scalars = {
            **tick.losses,
            "speed/images_per_s": tick.images_per_s,
            "speed/data_wait": tick.data_wait,
            "speed/memory_gib": tick.memory_gib,
        }
        self._scalars(scalars, tick.images_seen)

    def card(self, images_seen: int, card: Card) -> None:
        """Write a quality card's figures."""
        self._run.log_card(images_seen, card.figures(), grade=asdict(grade_of(card, images_seen)))
        scalars = {f"card/{name}": value for name, value in card.figures().items()}
        self._scalars(scalars, images_seen)

    def health(self, images_seen: int, figures: dict[str, float]) -> None:
        """Write what a look at the run's health saw."""
        self._run.log_health(images_seen, figures)
        scalars = {f"health/{name}": value for name, value in figures.items()}
        self._scalars(scalars, images_seen)

    def close(self) -> None:
        """Flush what is buffered."""
        if self._board and _writes(self._board):
            with suppress(OSError):
                self._board.close()

    def _open(self, images_seen: int) -> SummaryWriter | None:
        local = self._run.tensorboard.local
        if local is None:
            return None
        # A queue that one tick cannot fill: see `_writes`.
        return SummaryWriter(
            str(local), purge_step=images_seen + 1, flush_secs=10, max_queue=10_000
        )

    def _scalars(self, scalars: dict[str, float], images_seen: int) -> None:
        if self._board and not _writes(self._board):
            with suppress(OSError):
                self._board = self._open(images_seen - 1)
        if self._board:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, global_step=images_seen)


def _writes(board: SummaryWriter) -> bool:
    """Whether a board's thread lives: a full disk ends it, and its queue then blocks once full."""
    writer = board.file_writer
    return writer is None or bool(writer.event_writer._worker.is_alive())
