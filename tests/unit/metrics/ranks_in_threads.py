"""Several ranks in one process, each in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from distgen.core.world import World


class Meeting:
    """Joins the rows of ranks that run in threads."""

    def __init__(self, size: int) -> None:
        self.parts: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)

    def gather(self, rank: int) -> Callable[[np.ndarray], np.ndarray]:
        """The gather of one rank."""

        def join(rows: np.ndarray) -> np.ndarray:
            self.parts[rank] = rows
            self.barrier.wait(120)
            joined = np.concatenate(self.parts)
            self.barrier.wait(120)
            return joined

        return join


def on_ranks(size: int, call: Callable[[World, Any], Any]) -> list[Any]:
    """What `call(world, gather)` gives on every rank at once."""
    meeting, results, errors = Meeting(size), [None] * size, []

    def run(rank: int) -> None:
        try:
            results[rank] = call(World(rank, size), meeting.gather(rank))
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return results
