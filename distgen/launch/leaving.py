"""Nodes that were told to leave the cluster: spot instances, nodes that are taken for repair.

Ray calls it a drain: the node takes no new work, and after a while it is gone. A run whose ranks
are there writes a checkpoint at once, and goes on from it where there is room.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray

from distgen.core.errors import PreemptedError
from distgen.launch.telemetry import Member

LOOK_EVERY_S = 2.0
"""Seconds between two looks; clouds announce the end of a node 30 to 120 s before it."""


class NodeLeavingError(PreemptedError):
    """The ranks have written their checkpoint because a node of theirs leaves."""


class Leaving:
    """What is known of nodes that leave, looked for in a thread.

    Args:
        draining: Tells the ids of nodes that leave, and when, in ms since 1970 (0: unknown); by
            default the cluster's own word.
    """

    def __init__(self, draining: Callable[[], Mapping[str, int]] | None = None) -> None:
        self._draining = draining or _draining
        self._nodes: Mapping[str, int] = {}

    @contextmanager
    def looked_for(self) -> Iterator[Leaving]:
        """Inside, the cluster is asked every few seconds."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(LOOK_EVERY_S):
                self.look()

        # The question waits while the cluster's head is away, and nobody must wait with it.
        threading.Thread(target=look, name="leaving nodes", daemon=True).start()
        try:
            yield self
        finally:
            over.set()

    def look(self) -> None:
        """Ask the cluster now."""
        with contextlib.suppress(ray.exceptions.RayError, RuntimeError, OSError):
            self._nodes = self._draining()

    def among(self, members: Sequence[Member]) -> list[Member]:
        """Those ranks whose node leaves."""
        return [member for member in members if member.node in self._nodes]

    def in_seconds(self, node: str) -> float | None:
        """How long a node will still be there; None where that is not known."""
        deadline_ms = self._nodes.get(node)
        return max(0.0, deadline_ms / 1000 - time.time()) if deadline_ms else None


def _draining() -> Mapping[str, int]:
    from ray._private.state import state

    nodes: Mapping[str, int] = state.get_draining_nodes()
    return nodes
