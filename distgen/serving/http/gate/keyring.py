"""The keys of a running endpoint: read again when their file changes, each with its allowance."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from distgen.core.errors import DistgenError
from distgen.serving.http.gate.keyfile import Key, KeyFile, read

LOOK_EVERY_S = 0.5
"""How long a revoked key may still open anything."""

_log = logging.getLogger(__name__)


class Allowance:
    """A bucket of pictures that fills steadily and holds a minute's worth.

    Args:
        per_minute: How many flow in, and how many it holds.
        now_s: When it is full.
    """

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at_s = now_s

    def take(self, count: int, now_s: float) -> float:
        """Take pictures out, if there are so many.

        Returns:
            0 if they were taken, otherwise the seconds until they could be.
        """
        per_s = self.per_minute / 60
        self._left = min(float(self.per_minute), self._left + (now_s - self._at_s) * per_s)
        self._at_s = now_s
        if count <= self._left:
            self._left -= count
            return 0.0
        return (count - self._left) / per_s


class Keyring:
    """The keys in a file, as they are now.

    A file that breaks while the endpoint runs changes nothing but the log: the last good keys go
    on. One that is broken at the start does not start.

    Args:
        path: The file.
        clock: Seconds that only go forward.

    Raises:
        UsageError: There is no such file, or others than its owner may use it.
        DataError: It is not a file of keys.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.problem = ""
        """What is wrong with the file since it was last good."""
        self._path = path
        self._clock = clock
        self._state = _state_of(path)
        self._file: KeyFile = read(path)
        self._looked_s = clock()
        self._allowances: dict[str, Allowance] = {}

    def find(self, sent: str) -> Key | None:
        """The key that a client sent, if it is one of these."""
        self._look()
        return self._file.find(sent)

    def take(self, key: Key, count: int) -> float:
        """Let a key have pictures.

        Returns:
            0 if it may, otherwise the seconds to wait; infinity for more than it ever may at once.
        """
        if key.per_minute is None:
            return 0.0
        if count > key.per_minute:
            return math.inf
        now_s = self._clock()
        # By its hash: a key made anew under an old name, or with another rate, starts full.
        allowance = self._allowances.setdefault(key.sha256, Allowance(key.per_minute, now_s))
        return allowance.take(count, now_s)

    def _look(self) -> None:
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        state = _state_of(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._file = read(self._path)
        except DistgenError as error:
            self.problem = " ".join(str(error).split())
            _log.error("The last good keys stay in use. %s", self.problem)
            return
        self.problem = ""
        known = {key.sha256 for key in self._file.keys}
        self._allowances = {
            hashed: allowance for hashed, allowance in self._allowances.items() if hashed in known
        }
        _log.warning("%s was read again: %s keys", self._path, len(self._file.keys))


def _state_of(path: Path) -> tuple[int, ...] | None:
    """What changes when a file's content, place or rights do."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (
        status.st_ino,
        status.st_dev,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
