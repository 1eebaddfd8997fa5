"""Who converts pictures on this machine: threads, or processes where these pay.

Threads share one interpreter. It decodes, scales and encodes beside itself, and only the Python
around that, `PYTHON_S` for each picture, is done by one thread at a time. Two threads convert
photographs faster than two processes, which have to be told of each picture and tell of each in
turn; small pictures, or very many threads, are held up by the one interpreter. Processes take a
second to start, so threads begin, and what ends soon never needs them.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sized
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from distgen.core.errors import DistgenError

T = TypeVar("T")

THREADS_ONLY_S = 2.0
"""CPU time that threads have to have spent before processes are started for the rest."""
PYTHON_S = 0.0003
"""CPU time of a picture that only one thread at a time can spend: nearly all that one of 28x28
pixels takes (2 cores, Python 3.11)."""

_END_S = 10.0
# The module of whoever called is not imported again, as `multiprocessing` would do.
_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from distgen.data.building.processes import serve; serve()"
)


class Staged(Executor):
    """Threads at first, and processes once the work has turned out to be long and of their kind.

    Args:
        workers: Threads, and then processes.
        threads_only_s: Seconds of CPU time that threads spend.
        cores: What workers can use at a time; None: all of this machine.
    """

    def __init__(
        self, workers: int, threads_only_s: float = THREADS_ONLY_S, cores: int | None = None
    ) -> None:
        self._workers = workers
        self._at_once = min(workers, cores or os.cpu_count() or 1)
        self._threads_only_s = threads_only_s
        self._threads = ThreadPoolExecutor(workers, "distgen-build")
        self._processes: Processes | None = None
        self._pictures, self._cpu_s = 0, 0.0
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have `fn` called with some pictures; what it is given and returns can be pickled."""
        if self._processes is None and self._processes_pay():
            self._processes = Processes(self._workers)
        if self._processes is not None:
            return self._processes.submit(fn, *args, **kwargs)
        pictures = len(args[0]) if args and isinstance(args[0], Sized) else 1
        return self._threads.submit(self._timed, partial(fn, *args, **kwargs), pictures)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads and processes."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if self._processes is not None:
            self._processes.shutdown(wait, cancel_futures=cancel_futures)

    def _processes_pay(self) -> bool:
        if self._cpu_s < self._threads_only_s or not self._pictures:
            return False
        mean_s = self._cpu_s / self._pictures
        return self._at_once > 1 and self._at_once * PYTHON_S > mean_s

    def _timed(self, work: Callable[[], T], pictures: int) -> T:
        before = time.thread_time()  # CPU time: other programs on the machine do not enter it
        try:
            return work()
        finally:
            with self._lock:
                self._pictures += pictures
                self._cpu_s += time.thread_time() - before


class Processes(ThreadPoolExecutor):
    """Threads that each hand their work to a fresh process of their own.

    Fresh, because this one has threads and locks that a fork would copy in any state. A process
    ends when its pipe does: none is left behind, however this one ends.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, "distgen-processes")
        self._own = threading.local()
        self._all: list[_Process] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have `fn` called in a process; what it is given and returns can be pickled."""
        return super().submit(self._hand_over, partial(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, after what they are doing."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process in self._all:
            process.close()

    def _hand_over(self, work: Callable[[], T]) -> T:
        process: _Process | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = _Process()
            self._all.append(process)
        result: T = process.call(work)
        return result


class _Process:
    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  (this interpreter, and a constant)
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the process that ends this one
        )
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._tasks, self._answers = self._process.stdin, self._process.stdout
        self._send(sys.path)

    def call(self, work: Callable[[], Any]) -> Any:
        """What `work` returns there.

        Raises:
            DistgenError: The process has ended.
            Exception: What `work` raised.
        """
        self._send(work)
        try:
            done, answer = pickle.load(self._answers)  # noqa: S301  (from our own process)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise self._ended() from error
        if not done:
            raise answer
        return answer

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._tasks.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def _send(self, task: object) -> None:
        data = pickle.dumps(task, pickle.HIGHEST_PROTOCOL)
        try:
            self._tasks.write(data)
            self._tasks.flush()
        except OSError as error:
            raise self._ended() from error

    def _ended(self) -> DistgenError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        code = self._process.returncode
        cause = f"its exit code is {code}"
        if code is not None and code < 0:
            cause = f"it was ended by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                cause += ", as the kernel does where memory runs out"
        return DistgenError(
            "A process that converts pictures has ended.",
            cause=cause,
            remedy="the same command with fewer --workers; it goes on from the last finished shard",
        )


def serve() -> None:
    """Do what comes through the pipe until it ends; the body of a process."""
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            work = pickle.load(tasks)  # noqa: S301  (from the process that started this one)
            answers.write(pickle.dumps(outcome(work), pickle.HIGHEST_PROTOCOL))
            answers.flush()


def outcome(work: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether `work` ended well, and what it returned, or the error that it raised."""
    try:
        return True, work()
    except Exception as error:
        return False, error
