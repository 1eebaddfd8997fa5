"""Batches are bounded and fair, and survive cancelled requests and work that fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from distgen.serving.making.account import Account, DeadlineError, opened
from distgen.serving.making.batching import Batcher, Drawn, QueueFullError


class Gate:
    """Work that waits until it is let through, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.release()
        self.open.acquire()
        return [item * 10 for item in items]

    async def wait_until_busy(self) -> None:
        await asyncio.to_thread(self.entered.acquire)


def add_one(_: Sequence[int], drafts: Sequence[int]) -> list[int]:
    return [draft + 1 for draft in drafts]


def times_ten(items: Sequence[int]) -> list[int]:
    return [item * 10 for item in items]


def batcher(work, finish=add_one, max_batch=4, max_waiting=100, **options) -> Batcher:
    async def timed(items: Sequence[int]) -> Drawn[int]:
        started = time.monotonic()
        drafts = await asyncio.to_thread(work, items)
        return Drawn(drafts, time.monotonic() - started)

    async def finished(items: Sequence[int], drafts: Sequence[int]) -> Sequence[int]:
        return await asyncio.to_thread(finish, items, drafts)

    return Batcher(timed, finished, max_batch=max_batch, max_waiting=max_waiting, **options)


@pytest.mark.parametrize("ahead", [1, 3])
def test_every_request_gets_its_own_results_in_order(ahead):
    async def run() -> None:
        batches = batcher(times_ten, max_waiting=10_000, ahead=ahead)
        requests = [list(range(start, start + start % 11)) for start in range(60)]
        answers = await asyncio.gather(*(batches.submit(request) for request in requests))
        assert answers == [[item * 10 + 1 for item in request] for request in requests]
        assert batches.waiting == 0
        await batches.close()

    asyncio.run(run())


def test_what_arrives_while_a_batch_runs_shares_the_next_one():
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate)
        first = asyncio.create_task(batches.submit([0]))
        await gate.wait_until_busy()
        others = [asyncio.create_task(batches.submit([i])) for i in (1, 2, 3)]
        await asyncio.sleep(0)
        for _ in range(2):
            gate.open.release()
        assert await asyncio.gather(first, *others) == [[1], [11], [21], [31]]
        assert gate.batches == [[0], [1, 2, 3]]
        await batches.close()

    asyncio.run(run())


@pytest.mark.parametrize(("callers", "taken"), [(31, 16), (44, 16), (47, 32)])
def test_a_batch_takes_about_half_of_what_several_callers_wait_for(callers: int, taken: int):
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, max_batch=64)
        first = asyncio.create_task(batches.submit([0]))
        await gate.wait_until_busy()
        others = [asyncio.create_task(batches.submit([i])) for i in range(1, callers)]
        await asyncio.sleep(0)
        for _ in range(9):
            gate.open.release()
        await asyncio.gather(first, *others)
        # Half of them, as the nearest power of two; later ones depend on how many are finished.
        sizes = [len(batch) for batch in gate.batches]
        assert sizes[:2] == [1, taken]
        assert max(sizes) == taken
        assert [item for batch in gate.batches for item in batch] == list(range(callers))
        await batches.close()

    asyncio.run(run())


def test_a_full_batch_is_handed_over_while_the_one_before_runs():
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, max_batch=64, ahead=2)
        first = [asyncio.create_task(batches.submit([i])) for i in range(8)]
        await gate.wait_until_busy()
        few = [asyncio.create_task(batches.submit([i])) for i in range(8, 12)]
        await asyncio.sleep(0.05)
        assert len(gate.batches) == 1  # more may come to share what these cost
        more = [asyncio.create_task(batches.submit([i])) for i in range(12, 20)]
        await gate.wait_until_busy()
        assert gate.batches == [list(range(8)), list(range(8, 16))]
        for _ in range(3):
            gate.open.release()
        await asyncio.gather(*first, *few, *more)
        assert gate.batches[2] == list(range(16, 20))
        await batches.close()

    asyncio.run(run())


def test_one_caller_alone_gets_whole_batches():
    async def run() -> None:
        gate = Gate()
        gate.open = threading.Semaphore(9)
        batches = batcher(gate, max_batch=64)
        await batches.submit(list(range(40)))
        assert [len(batch) for batch in gate.batches] == [40]
        await batches.close()

    asyncio.run(run())


@pytest.mark.parametrize(("others", "begun"), [(7, 1), (8, 2), (30, 2)])
def test_work_is_handed_over_ahead_only_in_full_batches(others: int, begun: int):
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, max_batch=8, ahead=2)
        tasks = [asyncio.create_task(batches.submit(list(range(8))))]
        tasks += [asyncio.create_task(batches.submit([i])) for i in range(others)]
        for _ in range(begun):
            await gate.wait_until_busy()
        await asyncio.sleep(0.05)
        assert len(gate.batches) == begun
        gate.open.release(99)
        await asyncio.gather(*tasks)
        await batches.close()

    asyncio.run(run())


def test_a_large_request_is_split_and_lets_small_ones_pass():
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate)
        large = asyncio.create_task(batches.submit(list(range(12))))
        await gate.wait_until_busy()
        small = asyncio.create_task(batches.submit([100]))
        await asyncio.sleep(0)
        for _ in range(4):
            gate.open.release()
        assert await small == [1001]
        assert await large == [i * 10 + 1 for i in range(12)]
        assert [100 in batch for batch in gate.batches] == [False, True, False, False]
        assert max(map(len, gate.batches)) <= 4
        await batches.close()

    asyncio.run(run())


def test_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, max_waiting=6)
        waiting = asyncio.create_task(batches.submit([1, 2, 3, 4, 5]))
        await gate.wait_until_busy()
        refused = asyncio.create_task(batches.submit([6, 7]))
        await asyncio.sleep(0)
        assert refused.done()  # without waiting for the batch
        error = refused.exception()
        assert isinstance(error, QueueFullError)
        assert error.retry_after_s >= 1
        fits = asyncio.create_task(batches.submit([6]))
        for _ in range(3):
            gate.open.release()
        assert await fits == [61]
        assert len(await waiting) == 5
        assert batches.waiting == 0
        await batches.close()

    asyncio.run(run())


def test_cancelled_request_frees_its_slots_and_the_others_go_on():
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, max_waiting=10)
        running = asyncio.create_task(batches.submit([0, 1, 2, 3, 4]))  # one more than a batch
        await gate.wait_until_busy()
        queued = asyncio.create_task(batches.submit([5, 6, 7, 8, 9]))
        await asyncio.sleep(0)
        assert batches.waiting == 10
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        assert batches.waiting == 5
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert batches.waiting == 4  # what the running batch holds
        after = asyncio.create_task(batches.submit([42]))
        for _ in range(2):
            gate.open.release()
        assert await after == [421]
        assert batches.waiting == 0
        assert gate.batches == [[0, 1, 2, 3], [42]]
        await batches.close()

    asyncio.run(run())


def test_what_is_past_its_deadline_never_runs_and_leaves_its_place_to_others():
    async def late(batches: Batcher, items: list[int], seconds: float) -> list[int]:
        with opened(Account(deadline=time.monotonic() + seconds)):
            return await batches.submit(items)

    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, max_waiting=10)
        running = asyncio.create_task(late(batches, [0, 1, 2, 3, 4], 0.05))  # one more than a batch
        await gate.wait_until_busy()
        queued = asyncio.create_task(late(batches, [5, 6, 7, 8, 9], 0.05))
        for task in (running, queued):
            with pytest.raises(DeadlineError):
                await task
        assert batches.waiting == 4  # what the running batch holds
        with pytest.raises(DeadlineError):
            await late(batches, [10], 0.0)
        after = asyncio.create_task(late(batches, [42], 60.0))
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        # Of an event loop that is late, alarms ring when it is too late.
        loop.call_later = lambda s, *rest: call_later(s + 3600, *rest)  # type: ignore[assignment]
        mute = asyncio.create_task(late(batches, [11], 0.05))
        await asyncio.sleep(0)
        time.sleep(0.06)
        for _ in range(2):
            gate.open.release()
        assert await after == [421]
        with pytest.raises(DeadlineError):
            await mute
        assert batches.waiting == 0
        assert gate.batches == [[0, 1, 2, 3], [42]]
        await batches.close()

    asyncio.run(run())


@pytest.mark.parametrize("streams", [False, True])
def test_what_was_made_too_late_is_no_answer_but_of_a_stream(streams):
    async def run() -> None:
        gate, heard = Gate(), []
        batches = batcher(gate)
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        loop.call_later = lambda s, *rest: call_later(s + 3600, *rest)  # type: ignore[assignment]
        told = (lambda *result: heard.append(result)) if streams else None
        with opened(Account(deadline=time.monotonic() + 0.05)):
            asked = asyncio.create_task(batches.submit([7], told))
        await gate.wait_until_busy()
        time.sleep(0.06)
        gate.open.release()
        if streams:
            assert await asked == [71]
        else:
            with pytest.raises(DeadlineError):
                await asked
        assert heard == ([(0, 71)] if streams else [])
        await batches.close()

    asyncio.run(run())


def test_an_account_tells_what_was_asked_for_and_its_times_add_up():
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate)
        account, other = Account(), Account()
        for _ in range(4):
            gate.open.release()

        async def ask(items: list[int], to: Account) -> float:
            with opened(to):
                began = time.monotonic()
                await batches.submit(items)
                return time.monotonic() - began

        took, _ = await asyncio.gather(ask(list(range(10)), account), ask([1], other))
        assert (account.pictures, other.pictures) == (10, 1)
        assert min(account.queue_s, account.forward_s, account.encode_s) >= 0
        assert account.forward_s > 0
        total = account.queue_s + account.forward_s + account.encode_s
        assert total <= took
        await batches.close()

    asyncio.run(run())


@pytest.mark.parametrize("broken_step", ["work", "finish"])
def test_a_batch_that_fails_fails_its_requests_only(broken_step):
    def work(items: Sequence[int]) -> list[int]:
        if broken_step == "work" and -1 in items:
            raise ZeroDivisionError
        return times_ten(items)

    def finish(items: Sequence[int], drafts: Sequence[int]) -> list[int]:
        if broken_step == "finish" and -1 in items:
            raise ZeroDivisionError
        return add_one(items, drafts)

    async def run() -> None:
        batches = batcher(work, finish)
        bad = asyncio.create_task(batches.submit([-1, 1, 2, 3, 4, 5]))
        with pytest.raises(ZeroDivisionError):
            await bad
        assert await batches.submit([7]) == [71]
        assert batches.waiting == 0
        await batches.close()

    asyncio.run(run())


def test_close_fails_what_waits_and_ends_what_runs():
    async def run() -> None:
        gate = Gate()
        batches = batcher(gate)
        running = asyncio.create_task(batches.submit([0, 1, 2, 3]))
        await gate.wait_until_busy()
        queued = asyncio.create_task(batches.submit([9]))
        await asyncio.sleep(0)
        gate.open.release()
        await batches.close()
        assert await running == [1, 11, 21, 31]
        with pytest.raises(RuntimeError, match="shutting down"):
            await queued
        assert gate.batches == [[0, 1, 2, 3]]
        assert batches.waiting == 0

    asyncio.run(run())
