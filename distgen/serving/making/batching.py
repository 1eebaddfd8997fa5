"""Requests of any size to batches of a few, and back: bounded, fair, and safe to cancel.

No timer holds a picture back: while one batch runs, the next one gathers. A lone request therefore
waits for nobody, and under load the batches fill by themselves. A batch takes at most half of what
several callers wait for: while it runs, the other half is answered and asks anew, or else the
network and the event loop would wait for each other in turn.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

    `work` runs a batch at a time, unless it is `ahead`; `finish` follows in another thread while
    the next batch runs. Requests take turns: each gets an equal part of a batch, so that a small
    one does not wait for a large one. Whoever is cancelled, or whose deadline passes, leaves the
    queue at once; what a batch already holds of it is made and thrown away.

    Args:
        work: Called with at most `max_batch` items.
        finish: Called with items and their drafts; returns one result per item.
        max_batch: The most items in a batch.
        max_waiting: Items that may wait or run; a request beyond is refused.
        ahead: Calls of `work` at once, each in a thread; beyond the first only with full batches.
        name: What meters know it by.
        kind: Tells apart several of one name.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Drawn[Draft]],
        finish: Callable[[Sequence[Item], Sequence[Draft]], Sequence[Result]],
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
        self._worker = ThreadPoolExecutor(ahead, thread_name_prefix="batches")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._running: asyncio.Task[None] | None = None
        self._finishing: set[asyncio.Task[None]] = set()
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
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            return await job.done
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
        """Fail what waits, let the running batch end, and join the threads."""
        for job in self._queue:
            if not job.done.done():
                job.done.set_exception(RuntimeError("the endpoint is shutting down"))
        if self._running is not None:
            await self._running
        await asyncio.gather(*self._finishing)
        self._worker.shutdown()
        self._finisher.shutdown()

    async def _run(self) -> None:
        # Requests whose bytes have just arrived are parsed first, and join this batch.
        await asyncio.sleep(0)
        working: deque[asyncio.Task[None]] = deque()
        while batch := self._next_batch():
            working.append(asyncio.create_task(self._work_on(batch)))
            while working and (len(working) >= self._ahead or not self._is_batch_full()):
                await working.popleft()
                await asyncio.sleep(0)
        self._running = None

    async def _work_on(self, batch: Sequence[tuple[_Job[Item, Result], int]]) -> None:
        loop = asyncio.get_running_loop()
        items = [job.items[index] for job, index in batch]
        try:
            drafts, seconds = await loop.run_in_executor(self._worker, self._work, items)
        except Exception as error:
            self._fail(batch, error)
            return
        ended = time.monotonic()
        self._note_speed(len(batch), seconds)
        for job in dict.fromkeys(job for job, _ in batch):
            job.forward_s += seconds
            job.drawn = ended
        tell_batch(self.name, len(batch))
        task = asyncio.create_task(self._finish_batch(batch, items, drafts))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def _is_batch_full(self) -> bool:
        """Whether what has not been taken yet fills the largest batch."""
        untaken = 0
        for job in self._queue:
            untaken += len(job.items) - job.taken
            if untaken >= self._max_batch:
                return True
        return False

    def _batch_size(self) -> int:
        """How many items the next batch takes at most."""
        if len(self._queue) == 1 and self.waiting <= len(self._queue[0].items):
            return self._max_batch
        # Networks run in batches of powers of two.
        half = 1 << (max(self.waiting // 2, _SMALLEST_SHARE).bit_length() - 1)
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
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._finisher, self._finish, items, drafts)
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
