"""Telling a remote set what will be read, long before it is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from distgen.data.streaming.loader import Loader

Upcoming = Callable[[int], np.ndarray]
"""The samples of the batch that begins at a position."""


class ReadAhead:
    """Announces batches to a loader, as far ahead as half a shuffle window.

    A new window begins in all lanes at once: its first batches want a page of each, which a store
    gives in seconds rather than in the milliseconds that a batch takes.

    Args:
        loader: Who is told.
        upcoming: What a batch will need; called in a thread.
        batch_size: Images from one batch to the next.
        images: How far ahead to tell.
        end: Position at which the last batch ends.
    """

    def __init__(
        self, loader: Loader, upcoming: Upcoming, batch_size: int, images: int, end: float
    ) -> None:
        self._loader = loader
        self._upcoming = upcoming
        self._batch_size = batch_size
        self._images = images
        self._end = end
        self._told = 0
        self._thread = _one_thread()

    def advance(self, position: int) -> None:
        """Tell what comes up to `images` after `position`, as far as it has not been told."""
        while self._told < min(position + self._images, self._end):
            self._thread.submit(self._tell, self._told)
            self._told += self._batch_size

    def restart(self, position: int) -> None:
        """Forget what was told, and begin anew at `position`."""
        self.close()
        self._loader.expect_nothing()
        self._told = position
        self._thread = _one_thread()

    def close(self) -> None:
        """Stop telling."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _tell(self, position: int) -> None:
        # An error here comes again where the batch is loaded, and is raised there.
        self._loader.expect(self._upcoming(position))


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "distgen-ahead")
