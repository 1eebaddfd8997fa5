"""Requests of any size to batches of a few, and back: bounded, fair, and safe to cancel.

No timer holds a picture back: while one batch runs, the next one gathers. A lone request therefore
waits for nobody, and under load the batches fill by themselves. A batch takes about half of
what several callers wait for: while it runs, the other half is answered and asks anew, or else the
network and the event loop would wait for each other in turn.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakSet

from distgen.serving.making.account import DeadlineError, current, tell_batch
from distgen.serving.making.admission import admit

_SMALLEST_SHARE = 8
"""Items that a batch takes, where so many wait, however few others do: networks run them in little
more time than one."""

Item = TypeVar("Item")
Draft = TypeVar("Draft")
Result = TypeVar("Result")


class Drawn(NamedTuple, Generic[Draft]):
    """What the first step gives."""

    drafts: Sequence[Draft]
    """One for each item."""
    seconds: float
    """That the network took, without waiting for it to be free."""


class QueueFullError(Exception):
    """There is no room for this request now.

    Args:
        waiting: Items that wait or run.
        max_waiting: How many may.
        retry_after_s: When there should be room, in whole seconds.
    """

    def __init__(self, waiting: int, max_waiting: int, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.waiting = waiting
        self.max_waiting = max_waiting
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """One request on its way through one or more batches."""

    items: Sequence[Item]
    done: asyncio.Future[list[Result]]
    results: dict[int, Result]
    deadline: float
    taken: int = 0
    told: Callable[[int, Result], None] | None = None
    forward_s: float = 0.0
    drawn: float = math.inf
    """When the last batch with an item of it came out of `work`."""

    def expire(self) -> None:
        """Nobody waits any more."""
        if not self.done.done():
            self.done.set_exception(DeadlineError())


class Batcher(Generic[Item, Draft, Result]):
    """Gathers the items of concurrent requests into batches, and makes them in two steps.

    `work` runs a batch at a time, unless it is `ahead`; `finish` follows while the next batch runs.
    Requests take turns: each gets an equal part of a batch, so that a small one does not wait for a
    large one. Whoever is cancelled, or whose deadline passes, leaves the queue at once; what a
    batch already holds of it is made and thrown away.

    Args:
        work: Called with at most `max_batch` items.
        finish: Called with items and their drafts; returns one result per item.
        max_batch: The most items in a batch.
        max_waiting: Items that may wait or run; a request beyond is refused.
        ahead: Calls of `work` at once; beyond the first only with full batches.
        name: What meters know it by.
        kind: Tells apart several of one name.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Drawn[Draft]]],
        finish: Callable[[Sequence[Item], Sequence[Draft]], Awaitable[Sequence[Result]]],
        *,
        max_batch: int,
        max_waiting: int,
        ahead: int = 1,
        name: str = "",
        kind: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.waiting = 0
        """Items that wait, run or are being finished."""
        self.max_waiting = max_waiting
        self._work = work
        self._finish = finish
        self._max_batch = max_batch
        self._ahead = ahead
        self._queue: deque[_Job[Item, Result]] = deque()
        self._working = 0
        """Calls of `work` that run."""
        self._is_due = False
        """Whether batches are about to be made of what waits."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._items_per_s = 0.0
        QUEUES.add(self)

    async def submit(
        self, items: Sequence[Item], told: Callable[[int, Result], None] | None = None
    ) -> list[Result]:
        """The results of `items`, in order; the time they took goes to the caller's account.

        Args:
            items: What to make.
            told: Hears of each result, and its place, as soon as it is there.

        Raises:
            QueueFullError: With these items more than may wait would wait.
            DeadlineError: The account's deadline has passed; what has not run yet never does.
            Exception: Whoever let the request in does not let it have so many (`admission`).
        """
        if not items:
            return []
        account, started = current(), time.monotonic()
        account.pictures += len(items)
        account.require_time()
        left_s = account.deadline - started
        self.require_room(len(items))
        admit(len(items))
        loop = asyncio.get_running_loop()
        job: _Job[Item, Result] = _Job(items, loop.create_future(), {}, account.deadline, told=told)
        alarm = None if left_s == math.inf else loop.call_later(left_s, job.expire)
        self._queue.append(job)
        self.waiting += len(items)
        self._hand_over_soon()
        try:
            results = await job.done
            if told is None:  # an event loop that is late rings no alarm in time
                account.require_time()
            return results
        finally:
            if alarm is not None:
                alarm.cancel()
            if job in self._queue:
                self._queue.remove(job)
                self.waiting -= len(items) - job.taken
            ended = time.monotonic()
            encode_s = max(0.0, ended - job.drawn)
            account.forward_s += job.forward_s
            account.encode_s += encode_s
            account.queue_s += max(0.0, ended - started - job.forward_s - encode_s)

    def require_room(self, count: int) -> None:
        """Refuse so many items at once, before anything is prepared for them.

        Raises:
            QueueFullError: With them more than may wait would wait.
        """
        too_many = self.waiting + count - self.max_waiting
        if too_many > 0:
            retry_after_s = max(1, math.ceil(too_many / (self._items_per_s or too_many)))
            raise QueueFullError(self.waiting, self.max_waiting, retry_after_s)

    async def close(self) -> None:
        """Fail what waits, and let the running batch end."""
        for job in self._queue:
            if not job.done.done():
                job.done.set_exception(RuntimeError("the endpoint is shutting down"))
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _hand_over_soon(self) -> None:
        # Requests whose bytes have just arrived are parsed first, and join this batch.
        if self._working < self._ahead and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._is_due = False
        while not self._working or (self._working < self._ahead and self._is_batch_full()):
            batch = self._next_batch()
            if not batch:
                return
            self._working += 1
            self._begin(self._work_on(batch))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_on(self, batch: Sequence[tuple[_Job[Item, Result], int]]) -> None:
        items = [job.items[index] for job, index in batch]
        try:
            drafts, seconds = await self._work(items)
        except Exception as error:
            self._fail(batch, error)
            return
        finally:
            self._working -= 1
            self._hand_over_soon()
        ended = time.monotonic()
        self._note_speed(len(batch), seconds)
        for job in dict.fromkeys(job for job, _ in batch):
            job.forward_s += seconds
            job.drawn = ended
        tell_batch(self.name, len(batch))
        self._begin(self._finish_batch(batch, items, drafts))

    def _is_batch_full(self) -> bool:
        """Whether what has not been taken yet fills the next batch, so that it gains no more."""
        untaken, size = 0, self._batch_size()
        for job in self._queue:
            untaken += len(job.items) - job.taken
            if untaken >= size:
                return True
        return False

    def _batch_size(self) -> int:
        """How many items the next batch takes at most."""
        if len(self._queue) == 1 and self.waiting <= len(self._queue[0].items):
            return self._max_batch
        # Networks run in batches of powers of two.
        half = 1 << round(math.log2(max(self.waiting / 2, _SMALLEST_SHARE)))
        return min(half, self._max_batch)

    def _next_batch(self) -> list[tuple[_Job[Item, Result], int]]:
        batch: list[tuple[_Job[Item, Result], int]] = []
        now = time.monotonic()
        size = self._batch_size()
        while self._queue and len(batch) < size:
            share = max(1, (size - len(batch)) // len(self._queue))
            job = self._queue.popleft()
            if job.deadline <= now:  # its alarm rings only once the event loop has time
                job.expire()
            if job.done.done():  # failed in an earlier batch, or cancelled just now
                self.waiting -= len(job.items) - job.taken
                continue
            until = min(job.taken + share, len(job.items))
            batch += [(job, index) for index in range(job.taken, until)]
            job.taken = until
            if until < len(job.items):
                self._queue.append(job)
        return batch

    async def _finish_batch(
        self,
        batch: Sequence[tuple[_Job[Item, Result], int]],
        items: Sequence[Item],
        drafts: Sequence[Draft],
    ) -> None:
        try:
            results = await self._finish(items, drafts)
        except Exception as error:
            self._fail(batch, error)
            return
        self.waiting -= len(batch)
        for (job, index), result in zip(batch, results, strict=True):
            job.results[index] = result
            if job.told is not None and not job.done.done():
                job.told(index, result)
            if len(job.results) == len(job.items) and not job.done.done():
                job.done.set_result([job.results[i] for i in range(len(job.items))])

    def _fail(self, batch: Sequence[tuple[_Job[Item, Result], int]], error: Exception) -> None:
        self.waiting -= len(batch)
        for job, _ in batch:
            if not job.done.done():
                job.done.set_exception(error)

    def _note_speed(self, items: int, seconds: float) -> None:
        speed = items / max(seconds, 1e-6)
        self._items_per_s = speed if not self._items_per_s else (self._items_per_s * 7 + speed) / 8


QUEUES: WeakSet[Batcher[Any, Any, Any]] = WeakSet()
"""All of this process, for meters."""
