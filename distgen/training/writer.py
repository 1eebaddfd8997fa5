"""Checkpoints written behind the training: a step waits for the copy, not for the disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from threading import Thread

from distgen.core.part import Part
from distgen.core.storage import Location
from distgen.training import checkpoint
from distgen.training.snapshot import Snapshot, take

OnWritten = Callable[[int], None]


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread, and clears away old ones.

    A checkpoint counts from its manifest on, which comes last: however a process ends, the one
    before it is whole.

    Args:
        folder: Where checkpoints are.
        keep: How many of them stay.
        on_written: Told the images seen of each in the thread that trains, some time later.
        besides: The clocks of older ones that stay, asked in the thread that writes.
    """

    def __init__(
        self,
        folder: Location,
        keep: int,
        on_written: OnWritten,
        besides: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._on_written = on_written
        self._besides = besides
        self._thread: Thread | None = None
        self._error: Exception | None = None
        self._written: int | None = None

    def save(
        self,
        images_seen: int,
        parts: Mapping[str, Part],
        *,
        healthy: bool = True,
        rollbacks: int = 0,
    ) -> None:
        """Copy the parts and begin to write them; waits for the checkpoint before.

        Raises:
            OSError: The checkpoint before could not be written.
        """
        self.wait()
        snapshot = take(images_seen, parts, healthy=healthy, rollbacks=rollbacks)
        # A thread that must not keep a process alive which was told to end at once.
        self._thread = Thread(
            target=self._write, args=(snapshot,), name="distgen-checkpoint", daemon=True
        )
        self._thread.start()

    def tell(self) -> None:
        """Tell of a checkpoint that is complete by now.

        Raises:
            OSError: It could not be written.
        """
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Return when no checkpoint is being written, and all were told of.

        Raises:
            OSError: One could not be written.
        """
        self.close()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._written is not None:
            written, self._written = self._written, None
            self._on_written(written)

    def close(self) -> None:
        """Like `wait`, but silent: for when another error is on its way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, snapshot: Snapshot) -> None:
        try:
            checkpoint.write(self._folder, snapshot)
            checkpoint.prune(self._folder, self._keep, self._besides())
            self._written = snapshot.images_seen
        except Exception as error:  # belongs to the thread that trains
            self._error = error
