"""How the processes of a workshop answer their owner."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, cast


class Answers:
    """Answers to what the owner asked, by its number; any thread may give one.

    Args:
        owner: Where they go.
    """

    def __init__(self, owner: Connection) -> None:
        self._owner = owner
        self._sending = threading.Lock()

    def give(self, number: int, state: str, value: Any) -> None:
        """Say what has become of it: `drawn`, `done` or `failed`."""
        with self._sending:
            self._owner.send((number, state, value))

    def of(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Do something, and answer with what came of it; None: the answer comes from elsewhere."""
        try:
            value = work(*arguments)
        except Exception as error:
            self.give(number, "failed", _portable(error))
        else:
            if value is not None:
                self.give(number, "done", value)


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot travel."""
    try:
        return cast("Exception", pickle.loads(pickle.dumps(error)))  # noqa: S301
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
