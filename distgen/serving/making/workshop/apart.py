"""Processes of their own that draw and write, so that the event loop keeps a core for itself.

In one process the network's thread and the event loop take the interpreter's lock from each other
at every operation of the network, and half of two cores stays idle. So would the network and what
writes files of its pictures: one process draws and hands the pictures on to a second, small one
that writes them and answers. Both end when the sockets that they were started with are closed,
whatever became of their owner.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from distgen.serving.making.batching import Drawn
from distgen.serving.making.engine import Engine
from distgen.serving.making.loading import Outline
from distgen.serving.making.sampler import Picture
from distgen.serving.making.workshop.orders import Order

_DRAWING = "distgen.serving.making.workshop.drawing"
_WRITING = "distgen.serving.making.workshop.writing"

_log = logging.getLogger(__name__)


class WorkshopLostError(RuntimeError):
    """One of the two processes has ended, and with it what was begun."""


@dataclass(frozen=True)
class Loaded:
    """What the process that draws tells of a model that it has loaded."""

    largest_batch: int
    can_remake: bool


@dataclass(frozen=True)
class Ticket:
    """Something that was asked of the processes."""

    drawn: Future[float] = field(default_factory=Future)
    """Done when the network is free for the next batch: the seconds that it took."""
    done: Future[Any] = field(default_factory=Future)

    def __post_init__(self) -> None:
        for future in (self.drawn, self.done):
            future.set_running_or_notify_cancel()  # whoever waits may go; what is asked stays asked

    def fail(self, error: BaseException) -> None:
        """Whoever waits hears of it."""
        for future in (self.drawn, self.done):
            if not future.done():
                future.set_exception(error)


@dataclass(frozen=True)
class _Worker:
    """A process, and its owner's end of the socket between them."""

    what: str
    process: subprocess.Popen[bytes]
    connection: Connection

    @classmethod
    def start(cls, what: str, module: str, pictures: socket.socket, *options: str) -> _Worker:
        """Start `module` with its end of the socket that leads from one process to the other."""
        ours, theirs = socket.socketpair()
        with theirs, pictures:
            descriptors = theirs.fileno(), pictures.fileno()
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", module, *map(str, descriptors), *options],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return cls(what, process, Connection(ours.detach()))


class Workshop:
    """The processes, and the models in the one that draws.

    Args:
        device: Where networks run.
        encoder_threads: Threads that write pictures of a batch at the same time. With one, the
            process that draws writes too, unless another batch waits to be drawn.
        lost: Called, from another thread, when a process ends before `close`.
    """

    def __init__(
        self,
        device: str = "cpu",
        encoder_threads: int = 1,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        drawn, to_write = socket.socketpair()
        self._drawing = _Worker.start(
            "draws", _DRAWING, drawn, device, "may-write" if encoder_threads == 1 else "draws-only"
        )
        self._writing = _Worker.start("writes", _WRITING, to_write, str(encoder_threads))
        self._lost = lost
        self._sending = threading.Lock()
        self._settling = threading.Lock()
        self._numbers = itertools.count()
        self._tickets: dict[int, Ticket] = {}
        self._ended = False
        self._closed = False
        self._readers = [
            threading.Thread(target=self._read, args=[worker], name=worker.what, daemon=True)
            for worker in (self._drawing, self._writing)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pids(self) -> tuple[int, int]:
        """The process that draws, and the one that writes."""
        return self._drawing.process.pid, self._writing.process.pid

    @property
    def is_sending(self) -> bool:
        """Whether a thread is handing something over, which the next one waits for."""
        return self._sending.locked()

    def load(self, wanted: Outline) -> Engine:
        """The engine of an edition, whose network is over there.

        Raises:
            DataError: The bundle is damaged, or is another by now.
            WorkshopLostError: A process has ended.
        """
        model = next(self._numbers)
        loaded: Loaded = self.ask("load", model, wanted).done.result()
        return Engine(_HandsApart(self, model, loaded), wanted.info)

    def ask(self, what: str, model: int, load: Any = None) -> Ticket:
        """Hand something over.

        Args:
            what: What is wanted of `drawing.Bench`.
            model: The model's number.
            load: What goes with it.
        """
        ticket = Ticket()
        with self._sending:
            number = next(self._numbers)
            self._tickets[number] = ticket
            try:
                self._drawing.connection.send((number, what, model, load))
            except OSError:
                self._tickets.pop(number, None)
                ticket.fail(WorkshopLostError("the process that draws has ended"))
        return ticket

    def close(self) -> None:
        """End the processes; what they have begun is lost."""
        self._closed = True
        self._kill()
        for reader in self._readers:
            reader.join()

    def _kill(self) -> None:
        for worker in (self._drawing, self._writing):
            worker.process.kill()

    def _read(self, worker: _Worker) -> None:
        while True:
            try:
                number, state, value = worker.connection.recv()
            except (EOFError, OSError):
                break
            with self._settling:
                self._settle(worker, number, state, value)
        self._end(worker)

    def _settle(self, worker: _Worker, number: int, state: str, value: Any) -> None:
        ticket = self._tickets.get(number)
        if ticket is None:  # failed meanwhile, by what the other process said
            return
        if state == "failed":
            ticket.fail(value)
        elif state == "drawn":
            ticket.drawn.set_result(value)
        else:
            ticket.done.set_result(value)
        # Files may come before the word that their pictures are drawn: by another socket.
        if ticket.done.done() and (worker is self._drawing or ticket.drawn.done()):
            del self._tickets[number]

    def _end(self, worker: _Worker) -> None:
        """Neither process is of use without the other; whoever ended of itself says why."""
        with self._settling:
            if self._ended:
                return
            self._ended = True
        code = worker.process.wait()
        if worker is self._writing and code == 0:  # it ends so where nobody draws any more
            worker, code = self._drawing, self._drawing.process.wait()
        self._kill()
        for each in (self._drawing, self._writing):
            each.process.wait()
        with self._sending:
            self._drawing.connection.close()
        with self._settling:
            while self._tickets:
                _, ticket = self._tickets.popitem()
                ticket.fail(
                    WorkshopLostError(f"the process that {worker.what} has ended with code {code}")
                )
        if not self._closed:
            _log.error("the process that %s has ended with code %s", worker.what, code)
            self._lost()


class _HandsApart:
    """The hands of one model in a workshop."""

    # While one batch is drawn, the next one lies ready.
    ahead = 2

    def __init__(self, workshop: Workshop, model: int, loaded: Loaded) -> None:
        self._workshop = workshop
        self._model = model
        self.largest_batch = loaded.largest_batch
        self.can_remake = loaded.can_remake

    async def draw(self, orders: Sequence[Order]) -> Drawn[Ticket]:
        return await self._drawn("draw", orders)

    async def redraw(self, orders: Sequence[Order]) -> Drawn[Ticket]:
        return await self._drawn("redraw", orders)

    async def write(self, orders: Sequence[Order], drafts: Sequence[Ticket]) -> list[bytes]:  # noqa: ARG002
        files: list[bytes] = await asyncio.wrap_future(drafts[0].done)
        return files

    def close(self) -> None:
        self._workshop.ask("drop", self._model)

    async def _drawn(self, what: str, orders: Sequence[Order]) -> Drawn[Ticket]:
        asked = (what, self._model, list(orders))
        # No thread waits for pictures of seeds: each that did would take the interpreter's lock
        # from the event loop, several times for a batch. What brings vectors or pixels may be more
        # than the socket takes at once.
        if self._workshop.is_sending or not all(_is_short(order) for order in orders):
            ticket = await asyncio.to_thread(self._workshop.ask, *asked)
        else:
            ticket = self._workshop.ask(*asked)
        return Drawn([ticket] * len(orders), await asyncio.wrap_future(ticket.drawn))


def _is_short(order: Order) -> bool:
    return isinstance(order.picture, Picture) and order.picture.latents is None
