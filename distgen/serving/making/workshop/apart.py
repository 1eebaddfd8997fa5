"""A process of its own that draws and writes, so that the event loop keeps a core for itself.

In one process the network's thread and the event loop take the interpreter's lock from each other
at every operation of the network, and half of two cores stays idle. The process is started with one
end of a socket pair and ends when that is closed, whatever became of its owner.
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

_MODULE = "distgen.serving.making.workshop.process"

_log = logging.getLogger(__name__)


class WorkshopLostError(RuntimeError):
    """The process that draws has ended, and with it what it had begun."""


@dataclass(frozen=True)
class Loaded:
    """What the process tells of a model that it has loaded."""

    largest_batch: int
    can_remake: bool


@dataclass(frozen=True)
class Ticket:
    """Something that was asked of the process."""

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


class Workshop:
    """The process, and the models in it.

    Args:
        device: Where networks run.
        encoder_threads: Threads that write pictures beside the network; with one, they are written
            before the next batch is drawn.
        lost: Called, from another thread, when the process ends before `close`.
    """

    def __init__(
        self,
        device: str = "cpu",
        encoder_threads: int = 1,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", _MODULE, str(theirs.fileno()), device, str(encoder_threads)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._connection = Connection(ours.detach())
        self._lost = lost
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._tickets: dict[int, Ticket] = {}
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="workshop", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def is_sending(self) -> bool:
        """Whether a thread is handing something over, which the next one waits for."""
        return self._sending.locked()

    def load(self, wanted: Outline) -> Engine:
        """The engine of an edition, whose network is over there.

        Raises:
            DataError: The bundle is damaged, or is another by now.
            WorkshopLostError: The process has ended.
        """
        model = next(self._numbers)
        loaded: Loaded = self.ask("load", model, wanted).done.result()
        return Engine(_HandsApart(self, model, loaded), wanted.info)

    def ask(self, what: str, model: int, load: Any = None) -> Ticket:
        """Hand something over.

        Args:
            what: A method of `process.Bench`.
            model: The model's number.
            load: What goes with it.
        """
        ticket = Ticket()
        with self._sending:
            number = next(self._numbers)
            self._tickets[number] = ticket
            try:
                self._connection.send((number, what, model, load))
            except OSError:
                self._tickets.pop(number, None)
                ticket.fail(WorkshopLostError("the process that draws has ended"))
        return ticket

    def close(self) -> None:
        """End the process; what it has begun is lost."""
        self._closed = True
        self._process.kill()
        self._reader.join()

    def _read(self) -> None:
        while True:
            try:
                number, state, value = self._connection.recv()
            except (EOFError, OSError):
                break
            if state == "drawn":
                self._tickets[number].drawn.set_result(value)
                continue
            ticket = self._tickets.pop(number)
            if state == "failed":
                ticket.fail(value)
                continue
            ticket.done.set_result(value)
        code = self._process.wait()
        with self._sending:
            self._connection.close()
        while self._tickets:
            _, ticket = self._tickets.popitem()
            ticket.fail(WorkshopLostError(f"the process that draws has ended with code {code}"))
        if not self._closed:
            _log.error("the process that draws has ended with code %s", code)
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
