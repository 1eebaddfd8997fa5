"""Work on many items by threads, processes or other machines, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

from distgen.data.building.convert import RejectedError
from distgen.data.building.sources import Item, chunk_end
from distgen.data.building.sources.runs import LONGEST_CHUNK

Progress = Callable[[str, int, int], None]
"""Called with the name of the stage, the items done, and the items of the stage."""

T = TypeVar("T")


@dataclass(frozen=True)
class Rejected:
    """A picture that is not in the set, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Work:
    """Who does the work, how many chunks of items at once, and who is told what was done."""

    executor: Executor
    ahead: int
    report: Progress
    chunk: int = LONGEST_CHUNK
    """Items that are given to a worker at once, at most."""

    def in_order(
        self, stage: str, work: Callable[[Item], T], items: Sequence[Item], start: int = 0
    ) -> Iterator[tuple[Item, T | Rejected]]:
        """Items from `start` on and what `work` made of them, in order, a few chunks ahead."""
        chunks = _chunks(items, start, self.chunk)
        pending: deque[tuple[Sequence[Item], Future[list[T | Rejected]]]] = deque()
        done = start
        try:
            while True:
                for chunk in islice(chunks, self.ahead - len(pending)):
                    future = self.executor.submit(partial(_each, work), chunk)
                    pending.append((chunk, future))
                if not pending:
                    return
                chunk, future = pending.popleft()
                yield from zip(chunk, future.result(), strict=True)
                done += len(chunk)
                self.report(stage, done, len(items))
        finally:
            for _, future in pending:
                future.cancel()


def _chunks(items: Sequence[Item], start: int, most: int) -> Iterator[Sequence[Item]]:
    while start < len(items):
        end = min(chunk_end(items, start), start + most)
        yield items[start:end]
        start = end


def _each(work: Callable[[Item], T], items: Sequence[Item]) -> list[T | Rejected]:
    results: list[T | Rejected] = []
    for item in items:
        try:
            results.append(work(item))
        except RejectedError as error:
            results.append(Rejected(item.origin, str(error)))
    return results
