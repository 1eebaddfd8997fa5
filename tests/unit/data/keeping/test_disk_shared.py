"""What processes of a host keep on its disk together: each page once, within one limit."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgen.data.keeping import disk, page_folder
from distgen.data.streaming import pages
from distgen.data.streaming.order import Order
from tests.unit.data.away import FAR, PAGE, files, opened, said, taken


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, and room on whatever disk the tests run on."""
    monkeypatch.setattr(pages, "PAGE_BYTES", PAGE)
    monkeypatch.setattr(page_folder, "KEEP_FREE_BYTES", 0)


def work(folder: Path, limit: int, mode: str, numbers: list[int], test: Connection) -> None:
    """Keep pages whose bytes are all their number, and note in a file what is downloaded."""
    cache = opened(folder, limit)
    place = cache._folder.enter("0" * 32 + f"-{PAGE}") / "0"
    write, read = os.pwrite, os.pread

    def die_midway(fd: int, data: Any, offset: int) -> int:
        if len(data) < PAGE:
            return write(fd, data, offset)
        write(fd, data[:2000], offset)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def download(number: int) -> bytes:
        with (folder.parent / "downloads").open("a") as file:
            file.write(f"{number}\n")
        if mode == "hangs":
            test.send("hangs")
            test.recv()
        time.sleep(0.002)
        return bytes([number]) * PAGE

    def look_slowly(*words: Any) -> bytes:
        data = read(*words)
        time.sleep(0.001)
        return data

    if mode == "slow":
        # Between looking how much is there and saying how much will be.
        os.pread = look_slowly  # type: ignore[assignment]
    if mode == "dies":
        os.pwrite = die_midway  # type: ignore[assignment]
    test.send("ready")
    test.recv()
    seen = []
    for number in numbers:
        data = cache.fetch(place / str(number), PAGE, functools.partial(download, number))
        assert data == bytes([number]) * PAGE
        seen.append(taken(folder))
    test.send("done")
    test.send(seen)
    test.recv()
    cache.close()


class Worker:
    """A process that does `work`. It is forked, as importing all anew takes seconds."""

    def __init__(self, folder: Path, numbers: Any, mode: str = "works", limit: int = FAR) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        words = (folder, limit, mode, list(numbers), theirs)
        self.process = context.Process(target=work, args=words)
        self.process.start()
        theirs.close()

    def hears(self, word: str) -> None:
        assert self.pipe.recv() == word

    def go(self) -> None:
        self.pipe.send("go")

    def ends(self, status: int = 0) -> None:
        self.process.join()
        assert self.process.exitcode == status


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(*words: Any) -> Worker:
        workers.append(Worker(tmp_path / "cache", *words))
        return workers[-1]

    yield start
    for each in workers:
        each.process.kill()
        each.process.join()


def downloads(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "downloads").read_text().split()]


def test_processes_download_each_page_once(worker: Callable[..., Worker], tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(60)
    workers = [worker(numbers), worker(numbers)]
    for word in ("ready", "done"):
        for each in workers:
            each.hears(word)
        for each in workers:
            each.go()
    for each in workers:
        each.ends()
    assert sorted(downloads(tmp_path)) == list(range(60))
    assert said(tmp_path / "cache") == taken(tmp_path / "cache") == 60 * PAGE


def test_the_limit_is_never_exceeded_by_all_processes_together(
    worker: Callable[..., Worker], tmp_path: Path
) -> None:
    folder, limit = tmp_path / "cache", 40 * PAGE
    workers = [worker(range(first, first + 60), "slow", limit) for first in (0, 30, 60)]
    for each in workers:
        each.hears("ready")
    # Each of them looks after each of its pages, and we all the time.
    seen, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(taken(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for each in workers:
        each.go()
    for each in workers:
        each.hears("done")
        seen += each.pipe.recv()
    stop.set()
    watcher.join()
    for each in workers:
        each.go()
        each.ends()
    assert max(seen) == limit
    assert len(set(seen)) > 5, "nobody was seen at work"
    assert taken(folder) == said(folder) == limit


def test_a_kill_in_the_middle_of_a_page_leaves_nothing_that_is_taken_for_one(
    worker: Callable[..., Worker], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    dying = worker(range(5), "dies")
    dying.hears("ready")
    dying.go()
    dying.ends(-signal.SIGKILL)
    assert [path.name for path in files(folder)] == ["0.part"]
    with closing(opened(folder)) as other:
        assert files(folder) == [], "leftovers are swept where nobody is at work"
        assert said(folder) == 0
        second = worker(range(5), "dies")
        second.hears("ready")
        second.go()
        second.ends(-signal.SIGKILL)
        assert [path.name for path in files(folder)] == ["0.part"]
        # A process that finds the claim of a dead one takes it over.
        place = other._folder.enter("0" * 32 + "-4096") / "0" / "0"
        assert other.fetch(place, PAGE, lambda: b"x" * PAGE) == b"x" * PAGE
        assert [path.name for path in files(folder)] == ["0"]
        assert place.read_bytes() == b"x" * PAGE
        assert said(folder) == taken(folder) == PAGE


def test_who_waits_for_a_download_that_fails_makes_its_own(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as cache, ThreadPoolExecutor(1) as threads:
        place = cache._folder.enter("0" * 32 + f"-{PAGE}") / "0" / "7"
        waiting: list[Future[bytes]] = []

        def fail() -> bytes:
            waiting.append(threads.submit(cache.fetch, place, PAGE, lambda: bytes(PAGE)))
            time.sleep(0.1)
            assert not waiting[0].done()
            raise OSError("the store is away")

        with pytest.raises(OSError, match="away"):
            cache.fetch(place, PAGE, fail)
        assert waiting[0].result() == bytes(PAGE)
        assert files(tmp_path) == [place]
        assert said(tmp_path) == taken(tmp_path) == PAGE


def test_a_holder_that_hangs_is_not_waited_for(
    worker: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_PAGE_WAIT_S", 0.05)
    hanging = worker([3], "hangs")
    hanging.hears("ready")
    hanging.go()
    hanging.hears("hangs")
    os.kill(hanging.process.pid or 0, signal.SIGSTOP)
    with closing(opened(tmp_path / "cache")) as cache:
        place = cache._folder.enter("0" * 32 + "-4096") / "0" / "3"
        assert cache.fetch(place, PAGE, lambda: b"x" * PAGE) == b"x" * PAGE
        os.kill(hanging.process.pid or 0, signal.SIGCONT)
        hanging.go()
        hanging.hears("done")
        assert cache.fetch(place, PAGE, lambda: b"x" * PAGE) == bytes([3]) * PAGE
        hanging.go()
        hanging.ends()


def needs(order: Order, samples_per_page: int, epochs: int, memory: int) -> list[tuple[int, int]]:
    """Epochs and pages as they are asked for, but for those that are still in memory."""
    asked, held = [], OrderedDict[int, None]()
    positions = np.arange(epochs * order.num_samples)
    page_n = order.indices(positions) // samples_per_page
    for position, page in zip(positions.tolist(), page_n.tolist(), strict=True):
        if page not in held:
            asked.append((position // order.num_samples, page))
        held[page] = None
        held.move_to_end(page)
        if len(held) > memory:
            held.popitem(last=False)
    return asked


def hits(asked: list[tuple[int, int]], room: int, rule: str) -> int:
    """Hits after the first epoch of a cache that goes by another rule."""
    ends = [len(asked)] * len(asked)
    later: dict[int, int] = {}
    for place in reversed(range(len(asked))):
        ends[place] = later.get(asked[place][1], len(asked))
        later[asked[place][1]] = place
    held: OrderedDict[int, int] = OrderedDict()
    count = 0
    for place, (epoch, page) in enumerate(asked):
        if page in held:
            count += epoch > 0
            if rule == "least recently used":
                held.move_to_end(page)
        held[page] = ends[place]
        if len(held) > room:
            worst = (
                max(held, key=lambda each: held[each])
                if rule == "needed last"
                else next(iter(held))
            )
            del held[worst]
    return count


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_what_came_first_is_found_in_every_epoch_and_no_rule_finds_more(
    share: float, tmp_path: Path
) -> None:
    """240 pages of 10 samples, in 20 shards; 8 lanes, windows of 160 samples, 4 epochs."""
    order = Order((120,) * 20, "set", lanes=8, shuffle_window=160)
    asked = needs(order, 10, 4, memory=40)
    room = int(share * 240)
    with closing(opened(tmp_path, room * PAGE)) as cache:
        folder = cache._folder.enter("0" * 32 + f"-{PAGE}")
        missed: list[int] = []

        def download(epoch: int) -> bytes:
            missed.append(epoch)
            return b"x"

        for epoch, page in asked:
            cache.fetch(folder / "0" / str(page), 1, functools.partial(download, epoch))
    wanted = sum(epoch > 0 for epoch, _ in asked)
    found = wanted - sum(epoch > 0 for epoch in missed)
    print(
        share,
        wanted,
        found,
        [
            (r, hits(asked, room, r))
            for r in ("needed last", "least recently used", "first in, first out")
        ],
    )
    assert found / wanted == pytest.approx(share, abs=0.01)
    rules = ("needed last", "least recently used", "first in, first out")
    best, recent, first = (hits(asked, room, rule) for rule in rules)
    # Knowing the future gains only pages that two windows share.
    assert found <= best <= 1.1 * found
    assert found > 1.2 * max(recent, first)
