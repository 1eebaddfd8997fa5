"""A run whose number of workers follows the cluster: fewer after a loss, more when there is room.

Each size is a launch of its own, which goes on from the last checkpoint: the batches, their order
and the noise do not depend on how many ranks share them. Ray Train's own elasticity would ask for
lost workers' places again, and waits a minute for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ray.util.placement_group import placement_group, remove_placement_group

from distgen.core.errors import PreemptedError, TrainingError
from distgen.launch.cluster import Connection, slots
from distgen.launch.faults import WorkersLostError
from distgen.launch.leaving import NodeLeavingError
from distgen.launch.setbacks import Setbacks
from distgen.launch.turns import somebody_waits
from distgen.training.job import TrainJob
from distgen.training.outcome import Outcome
from distgen.training.run import RunFolder

Launch = Callable[[TrainJob, threading.Event], Outcome]
"""Trains on a fixed number of workers until the end, or until there is room for more."""

LOOK_EVERY_S = 5.0
"""Seconds between two looks for more room."""
PLACE_TIMEOUT_S = 3.0
"""Time in which free places are given; what takes longer is not free."""
WAIT_S = 600.0
"""Time that a cluster may have no place for the smallest number of workers."""


class Elastic:
    """Launches of one run, one after the other.

    Args:
        job: What is trained, on a range of workers.
        folder: The run's.
        connection: The cluster.
        launch: Trains on a fixed number of workers.
        on_message: Told in words of each change.
    """

    def __init__(
        self,
        job: TrainJob,
        folder: RunFolder,
        connection: Connection,
        launch: Launch,
        on_message: Callable[[str], None],
    ) -> None:
        self._job = job
        self._folder = folder
        self._connection = connection
        self._launch = launch
        self._on_message = on_message
        self._need = {name: n for name, n in job.scaling.per_worker.items() if n}

    def run(self, stops: Sequence[threading.Event]) -> Outcome:
        """Train to the end, or to the moment at which one of `stops` is set.

        Raises:
            PreemptedError: A stop was asked for; the checkpoint is written.
            TrainingError: The workers failed too often, or there is no room for the fewest.
        """
        before = 0
        setbacks = Setbacks(self._folder.checkpoints, self._job.scaling.max_failures)
        while True:
            size = self._wait_for_room(stops)
            if before and size != before:
                self._folder.event("resized", self._images_seen(), ranks=size, before=before)
                self._on_message(f"Going on with {_count(size)}; before, it was {before}.")
            before = size
            try:
                with self._looking_for_more(size) as more:
                    # Ray itself would start as many again as were lost.
                    return self._launch(_without_restarts(self._job, size), more)
            except NodeLeavingError:
                continue
            except PreemptedError:
                if any(stop.is_set() for stop in stops) or not more.is_set():
                    raise
            except WorkersLostError:
                if not setbacks.one_more():
                    raise

    def _images_seen(self) -> int:
        return max((int(event["images_seen"]) for event in self._folder.events()), default=0)

    def _wait_for_room(self, stops: Sequence[threading.Event]) -> int:
        """The largest number of workers that have a place now."""
        fewest, told = self._job.sizes[0], False
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            found = largest_free(self._job.sizes, self._need)
            if found is not None:
                return found
            if any(stop.is_set() for stop in stops):
                raise PreemptedError(
                    "Stopped while the run waited for workers.",
                    where=str(self._folder.location),
                    remedy="the same command goes on",
                )
            if not told:
                self._on_message(f"There is no room for {_count(fewest)} now; waiting for it.")
                told = True
        raise TrainingError(
            f"The cluster had no place for {_count(fewest)} in {WAIT_S / 60:g} minutes.",
            where=self._connection.address,
            cause="its nodes are lost, or other jobs hold their CPUs or GPUs",
            remedy="distgen jobs ls; the same command goes on from the last checkpoint",
        )

    @contextmanager
    def _looking_for_more(self, size: int) -> Iterator[threading.Event]:
        """An event that is set once more workers than `size` have a place."""
        found, over = threading.Event(), threading.Event()
        larger = [each - size for each in self._job.sizes if each > size]

        def look() -> None:
            while not over.wait(LOOK_EVERY_S):
                total = slots(self._connection.room().nodes, self._need)
                possible = [more for more in larger if size + more <= total]
                if somebody_waits():  # who has nothing comes before who would have more
                    continue
                if possible and largest_free(possible, self._need) is not None:
                    found.set()
                    return

        watcher = threading.Thread(target=look, name="room", daemon=True)
        if larger:
            watcher.start()
        try:
            yield found
        finally:
            over.set()
            if larger:
                watcher.join()


def largest_free(sizes: Sequence[int], need: Mapping[str, float]) -> int | None:
    """The largest of `sizes`, rising, for which so many workers have a place at this moment."""
    for size in reversed(sizes):
        group = placement_group([dict(need)] * size)
        try:
            if group.wait(PLACE_TIMEOUT_S):
                return size
        finally:
            remove_placement_group(group)
    return None


def _without_restarts(job: TrainJob, workers: int) -> TrainJob:
    sized = job.with_workers(workers)
    scaling = sized.scaling.model_copy(update={"max_failures": 0})
    return sized.model_copy(update={"scaling": scaling})


def _count(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"
