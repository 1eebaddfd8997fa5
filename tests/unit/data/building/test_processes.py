"""Work by processes: what comes back, what is said when one ends, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from distgen.core.errors import DataError, DistgenError
from distgen.data.building import build
from distgen.data.building.processes import Processes, Staged
from distgen.data.building.sources import Item
from distgen.data.building.work import Work


def refuse(what: str) -> None:
    raise DataError(what, where="there", remedy="mend it")


def spin(cpu_s: float) -> int:
    """Work of so much CPU time; says which process did it."""
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass
    return os.getpid()


def spin_each(each_s: list[float]) -> int:
    """Work on several things, of so much CPU time each."""
    return spin(sum(each_s))


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(130):
        Image.new("RGB", (8, 8), (number % 129, 9, 9)).save(folder / f"{number}.png")
    (folder / "text.png").write_text("text")
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_processes_build_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    options = {"size": 6, "split": 0.4, "shard_samples": 20}
    build(str(pictures), tmp_path / "threads", workers=2, **options)  # type: ignore[arg-type]
    with Processes(2) as processes:
        built = build(str(pictures), tmp_path / "set", executor=processes, **options)  # type: ignore[arg-type]
    assert (built.num_samples, built.rejected, built.duplicates) == (130, 1, 1)
    assert everything(tmp_path / "set") == everything(tmp_path / "threads")


def test_results_and_errors_come_back_from_other_processes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Processes(1) as processes:
        other = processes.submit(os.getpid).result()
        assert other != os.getpid()
        with pytest.raises(DataError, match="not so good") as error:
            processes.submit(refuse, "not so good").result()
        assert (error.value.where, error.value.remedy) == ("there", "mend it")
        assert processes.submit(print, "a library prints").result() is None
        assert processes.submit(divmod, 7, 2).result() == (3, 1)
    assert capfd.readouterr().out == ""
    assert not psutil.pid_exists(other)


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "memory"), (signal.SIGSEGV, "SEGV")]
)
def test_a_process_that_ends_is_said_to_have(number: int, words: str) -> None:
    with Processes(1) as processes:
        with pytest.raises(DistgenError, match="has ended") as error:
            processes.submit(kill, number).result()
        assert words in str(error.value.cause)
        assert "--workers" in str(error.value.remedy)
        with pytest.raises(DistgenError, match="has ended"):
            processes.submit(os.getpid).result()


def test_an_interrupt_of_the_group_is_not_for_the_processes() -> None:
    with Processes(1) as processes:
        assert processes.submit(os.getpgid, 0).result() != os.getpgid(0)


def test_no_process_outlives_the_one_that_started_it() -> None:
    script = (
        "import os, signal; from distgen.data.building.processes import Processes\n"
        "print(Processes(1).submit(os.getpid).result(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert ended.returncode == -signal.SIGKILL
    child = int(ended.stdout)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the process is still there"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("workers", "cores", "cpu_s", "elsewhere"),
    [
        (2, 2, 0.0, True),
        (2, 2, 0.005, False),
        (32, 32, 0.005, True),
        (32, 2, 0.005, False),
        (1, 8, 0.0, False),
    ],
)
def test_processes_take_over_where_they_pay(
    workers: int, cores: int, cpu_s: float, elsewhere: bool
) -> None:
    with Staged(workers, 0.0, cores) as staged:
        assert staged.submit(spin_each, [cpu_s] * 4).result() == os.getpid()
        assert (staged.submit(spin_each, [cpu_s] * 4).result() != os.getpid()) == elsewhere


def test_what_ends_soon_is_done_by_threads() -> None:
    with Staged(8, threads_only_s=3600) as staged:
        calls = [staged.submit(spin, 0.0) for _ in range(50)]
        wait(calls)
        assert {call.result() for call in calls} == {os.getpid()}


class Counting(Executor):
    """Does everything at once, and counts what it was given."""

    def __init__(self) -> None:
        self.given = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given += 1
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def test_no_more_chunks_are_begun_than_are_wanted_ahead() -> None:
    items = [Item(str(number), "", number, np.empty(0)) for number in range(1000)]
    counting = Counting()
    done: list[int] = []
    work = Work(counting, 3, lambda _stage, count, _all: done.append(count))
    for position, (item, label) in enumerate(work.in_order("x", lambda item: item.label, items)):
        assert item.label == label == position
        assert counting.given <= position // 32 + 3
    assert done == [*range(32, 1000, 32), 1000]
