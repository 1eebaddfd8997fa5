"""Checkpoints written behind the training: no step waits for the disk, and few for the copy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from threading import Event, Thread

from distgen.core.part import Part
from distgen.core.storage import Location
from distgen.core.stores import outlast_full_disk
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
        self._copied = Event()
        self._copied.set()
        self._error: Exception | None = None
        self._written: int | None = None
        self.passed_over: tuple[str, ...] = ()
        """Checkpoints of no use, which go when the next one is written."""

    def save(
        self,
        images_seen: int,
        parts: Mapping[str, Part],
        *,
        healthy: bool = True,
        rollbacks: int = 0,
        lent: Collection[str] = (),
    ) -> None:
        """Copy the parts and begin to write them; waits for the checkpoint before.

        Args:
            images_seen: The clock.
            parts: What must survive.
            healthy: Whether a run that goes wrong may return here.
            rollbacks: How often the run had been rolled back.
            lent: Names of parts whose tensors do not change until `copied` returns: a step has a
                forward and a backward pass before it changes a weight.

        Raises:
            OSError: The checkpoint before could not be written.
        """
        self.wait()
        snapshot = take(images_seen, parts, healthy=healthy, rollbacks=rollbacks, lent=lent)
        self._copied.clear()
        # A thread that must not keep a process alive which was told to end at once.
        self._thread = Thread(
            target=self._write, args=(snapshot,), name="distgen-checkpoint", daemon=True
        )
        self._thread.start()

    def copied(self) -> None:
        """Return when what was lent may change."""
        self._copied.wait()

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is on its way to the disk."""
        return self._thread is not None and self._thread.is_alive()

    def tell(self) -> None:
        """Tell of a checkpoint that is complete by now.

        Raises:
            OSError: It could not be written.
        """
        if self._thread is not None and not self.is_writing:
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
            snapshot.copy_lent()
            self._copied.set()
            # The next checkpoint waits for this one, so that no more is lost for it.
            outlast_full_disk(lambda: checkpoint.write(self._folder, snapshot, self.passed_over))
            self.passed_over = ()
            checkpoint.prune(self._folder, self._keep, self._besides())
            self._written = snapshot.images_seen
        except Exception as error:  # belongs to the thread that trains
            self._error = error
        finally:
            self._copied.set()
