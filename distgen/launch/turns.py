"""Whose turn it is: runs that want places on one cluster stand in line, and start one by one.

By itself Ray gives free places to whoever asks at the right moment, so that a run on many workers
would starve behind small ones, and it gives a run up that has asked for ten minutes. Here each
run leaves a ticket in the cluster's own store (GCS), the one that has waited longest asks for its
places alone, and the others wait for as long as it takes. A ticket counts while its process lives.

Nothing here loads torch: a process that waits is a light one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from distgen.core.errors import PreemptedError
from distgen.launch.cluster import Connection, Room, slots
from distgen.training.scaling import ScalingConfig

POLL_S = 1.0
TELL_EVERY_S = 60.0
"""Seconds after which one who waits says so again."""
_NAMESPACE = "distgen-line"


class Turn:
    """A run's place in line; a context manager that leaves the line at its end.

    Args:
        scaling: The places that the run needs; of an elastic one the fewest.
        on_message: Told what is waited for.
    """

    def __init__(self, scaling: ScalingConfig, on_message: Callable[[str], None]) -> None:
        self._scaling = scaling
        self._on_message = on_message
        self._ticket: str | None = None
        self._came = False
        self._told = ("", 0.0)

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Until it is this run's turn and its places are free; at once where it was before.

        Raises:
            PreemptedError: A stop was asked for meanwhile.
        """
        if self._came:
            return
        import ray

        mine = ticket(time.time_ns(), ray.get_runtime_context().get_job_id())
        self._ticket = mine
        _put(mine)
        while not self._look(mine):
            if stopped():
                raise PreemptedError(
                    "Stopped before there was a place for the workers.",
                    remedy="the same command again stands in line again",
                )
            time.sleep(POLL_S)
        self._came = True

    def leave(self) -> None:
        """Let the next one come: the workers have their places, or want them no more."""
        if self._ticket is not None:
            _remove(self._ticket)
            self._ticket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def _look(self, mine: str) -> bool:
        waiting = in_line(_tickets(), _alive())
        before = waiting.index(mine) if mine in waiting else 0
        scaling = self._scaling
        need = scaling.per_worker
        if not before and slots(_free(), need) >= scaling.fewest:
            return True
        self._tell(before)
        return False

    def _tell(self, before: int) -> None:
        text = waiting_for(self._scaling, before)
        last, told_at = self._told
        if text != last or time.monotonic() - told_at > TELL_EVERY_S:
            self._on_message(text)
            self._told = (text, time.monotonic())


def shares(connection: Connection, room: Room) -> bool:
    """Whether runs stand in line here: not on a cluster of one's own, nor where demand is what an
    autoscaler adds nodes for.
    """
    return not connection.started_here and not room.can_grow


def somebody_waits() -> bool:
    """Whether a run stands in line."""
    found = _tickets()
    return bool(found and in_line(found, _alive()))


@contextmanager
def stop_on_term() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come; it no longer ends the process by itself."""
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def ticket(came_ns: int, job: str) -> str:
    """What stands for a run in line; tickets sort by the time at which runs came."""
    return f"{came_ns:020d} {job}"


def in_line(tickets: Iterable[str], alive: Collection[str]) -> list[str]:
    """The tickets of those that live, the one that has waited longest first."""
    return sorted(each for each in tickets if each.partition(" ")[2] in alive)


def waiting_for(scaling: ScalingConfig, before: int) -> str:
    """What a run waits for, in words."""
    count = f"{scaling.fewest} worker" + ("s" if scaling.fewest > 1 else "")
    each = f"{scaling.cpus_per_worker:g} CPUs"
    if scaling.gpus_per_worker:
        each += f" and {scaling.gpus_per_worker:g} GPUs"
    if not before:
        return f"Waiting for a place for {count} with {each} each; other jobs hold the cluster."
    first = "1 run comes" if before == 1 else f"{before} runs come"
    return f"Waiting for a place for {count} with {each} each; {first} first."


# Ray's own doors to its store and its tables (2.60): none of them is public, and none costs a
# process or a dashboard that answers.


def _put(key: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, b"", namespace=_NAMESPACE)


def _remove(key: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, namespace=_NAMESPACE)


def _tickets() -> list[str]:
    from ray.experimental.internal_kv import _internal_kv_list

    return [key.decode() for key in _internal_kv_list("", namespace=_NAMESPACE)]


def _alive() -> set[str]:
    from ray._private.state import jobs

    return {str(job["JobID"]) for job in jobs() if not job["IsDead"]}


def _free() -> list[Mapping[str, float]]:
    from ray._private.state import available_resources_per_node

    return list(available_resources_per_node().values())
