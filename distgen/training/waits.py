"""What a run has waited for and got at last: a store that did not answer, a disk that was full."""

from __future__ import annotations

import logging
from collections import deque

from distgen.core.retry import WAIT_LOGGER, Wait

WORTH_TELLING_S = 1.0
"""Shorter waits are what networks are like."""


class Waits(logging.Handler):
    """Collects the waits of all threads of this process until they are taken.

    One instance hears of them from `open` to `close`.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._waits: deque[Wait] = deque()
        self._logger = logging.getLogger(WAIT_LOGGER)

    def open(self) -> None:
        """Begin to listen."""
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self)

    def close(self) -> None:
        """Listen no longer."""
        self._logger.removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of a wait, in whichever thread it was."""
        wait = getattr(record, "wait", None)
        if isinstance(wait, Wait) and wait.seconds >= WORTH_TELLING_S:
            self._waits.append(wait)

    def take(self) -> Wait | None:
        """The longest wait since the last call, if there was one."""
        found = [self._waits.popleft() for _ in range(len(self._waits))]
        return max(found, key=lambda wait: wait.seconds, default=None)
