"""Engines in memory: loaded once, lent to requests, and unloaded when room is needed."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from distgen.serving.making.account import DeadlineError, in_time
from distgen.serving.making.engine import Engine
from distgen.serving.making.loading import MakeEngine, Outline, reason, require_room, told

_log = logging.getLogger(__name__)


LOAD_AGAIN_S = 60.0
"""How long a bundle that could not be loaded is left alone: others have to make room for it."""


class UnloadableModelError(Exception):
    """A model that is served here, and whose bundle cannot be loaded again.

    Args:
        name: The model's name.
        cause: Why.
        retry_after_s: When it is tried again, in whole seconds.
    """

    def __init__(self, name: str, cause: str, retry_after_s: int) -> None:
        super().__init__(f"the model {name!r} cannot be loaded: {cause}")
        self.name = name
        self.cause = cause
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class Held:
    """An engine, and how many requests have it."""

    engine: Engine
    users: int = 0
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last user gives it back."""


@dataclass(eq=False)
class Copy:
    """One edition of a model, whether it is in memory or not."""

    outline: Outline
    held: Held | None = None
    retired: bool = False
    """Whether no further request will ask for it."""
    queue: list[asyncio.Future[Held]] = field(default_factory=list)
    """Requests that wait until it is loaded."""
    loading: asyncio.Task[None] | None = None
    problem: str = ""
    """Why it could not be loaded when it was wanted last; empty where it could."""
    again_at: float = 0.0
    """When that is tried again, by the monotonic clock."""

    @property
    def answers(self) -> bool:
        """Whether it is in memory, or may come there when it is wanted."""
        return self.held is not None or time.monotonic() >= self.again_at


class Memory:
    """Keeps copies in memory up to a limit; whoever was used least recently goes first.

    Loads happen one at a time in a thread, and hold up nobody who asks for what is there. Where all
    copies are in use, the one used least recently takes no new requests, answers those it has, and
    goes. A swap takes the memory of one more copy for as long as it lasts.

    Args:
        make: From editions to engines.
        limit_bytes: Of weights; None: no limit.
    """

    def __init__(self, make: MakeEngine, limit_bytes: int | None = None) -> None:
        self._make = make
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[Copy, None] = OrderedDict()
        self._room = asyncio.Lock()
        """Held by whoever makes room for something, and brings it."""
        self._making = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def used_bytes(self) -> int:
        """What the weights in memory take."""
        return sum(copy.outline.memory_bytes for copy in self._held)

    def keep(self, copy: Copy, engine: Engine) -> Held:
        """Take up an engine that is there already."""
        copy.held = Held(engine)
        self._held[copy] = None
        return copy.held

    def begin(self, outline: Outline) -> Copy:
        """A first copy, loaded here and now if there is room for it.

        Raises:
            UsageError: There would not be room for it alone.
            DataError: The bundle is damaged.
        """
        require_room(outline, self._limit_bytes)
        limit, needs = self._limit_bytes, outline.memory_bytes
        copy = Copy(outline)
        if limit is None or self.used_bytes + needs <= limit:
            self.keep(copy, self._make(outline))
        return copy

    async def borrow(self, copy: Copy) -> Held:
        """The copy's engine, loaded if need be, until `give_back`.

        Raises:
            UnloadableModelError: It cannot be loaded.
            DeadlineError: It does not come before the request's deadline.
        """
        if copy.held is not None:
            copy.held.users += 1
            self._held.move_to_end(copy)
            return copy.held
        left_s = copy.again_at - time.monotonic()
        if left_s > 0:
            raise UnloadableModelError(copy.outline.info.name, copy.problem, math.ceil(left_s))
        place: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        copy.queue.append(place)
        if copy.loading is None:
            copy.loading = asyncio.create_task(self._load(copy))
        try:
            return await in_time(place)
        except (asyncio.CancelledError, DeadlineError):
            # It may have come in the very moment.
            if place.done() and not place.cancelled() and place.exception() is None:
                self.give_back(copy, place.result())
            raise

    def give_back(self, copy: Copy, held: Held) -> None:
        """End a loan."""
        held.users -= 1
        if not held.users:
            held.free.set()
            self._settle(copy)

    async def bring(self, outline: Outline) -> Copy:
        """A further copy, loaded beside all others.

        Raises:
            Exception: Whatever is wrong with it, or that there would not be room for it alone.
        """
        require_room(outline, self._limit_bytes)
        copy = Copy(outline)
        # Those who wait for room, which may take minutes, do not hold up a swap.
        async with self._making:
            self.keep(copy, await asyncio.to_thread(self._make, outline))
        return copy

    async def exchange(self, old: Copy, new: Copy | None) -> None:
        """Let `old` go once its last request is answered; `new` takes its place in the order.

        Call it when no further request can reach `old`.
        """
        old.retired = True
        if new is not None and old.held is None:
            self._held.move_to_end(new, last=False)  # nobody has missed the old one
        self._settle(old)
        self._later(self._shrink())

    async def close(self) -> None:
        """Unload everything, each when its running batch is done."""
        async with self._room:
            for copy in [*self._held]:
                if copy.held is not None:
                    await copy.held.engine.close()
            self._held.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _load(self, copy: Copy) -> None:
        async with self._room:
            if all(place.done() for place in copy.queue):  # whoever wanted it has gone
                self._waiting_for(copy)
                return
            try:
                await self._make_room(copy.outline.memory_bytes)
                async with self._making:
                    engine = await asyncio.to_thread(self._make, copy.outline)
            except Exception as error:
                self._fail(copy, error)
                return
            held = self.keep(copy, engine)
        copy.problem = ""
        for place in self._waiting_for(copy):
            held.users += 1  # before anybody else can look for room
            place.set_result(held)
        self._settle(copy)

    def _fail(self, copy: Copy, error: Exception) -> None:
        """Tell who waits for a copy, and who asks within a while, that it does not come."""
        name, cause = copy.outline.info.name, told(error)
        _log.error("%s cannot be loaded: %s", name, reason(error))
        copy.problem, copy.again_at = cause, time.monotonic() + LOAD_AGAIN_S
        for place in self._waiting_for(copy):
            place.set_exception(UnloadableModelError(name, cause, math.ceil(LOAD_AGAIN_S)))

    def _waiting_for(self, copy: Copy) -> list[asyncio.Future[Held]]:
        places, copy.queue, copy.loading = copy.queue, [], None
        return [place for place in places if not place.done()]

    async def _shrink(self) -> None:
        """Come back below the limit after a swap to something larger."""
        async with self._room:
            await self._make_room(0)

    async def _make_room(self, needs: int) -> None:
        while self._limit_bytes is not None and self.used_bytes + needs > self._limit_bytes:
            idle = [copy for copy in self._held if copy.held is not None and not copy.held.users]
            victim = next(iter(idle or self._held), None)
            if victim is None:
                return
            await self._unload(victim)

    def _settle(self, copy: Copy) -> None:
        """Unload what nobody will ask for again and nobody has."""
        if copy.retired and copy.held is not None and not copy.held.users:
            self._later(self._unload(copy))

    async def _unload(self, copy: Copy) -> None:
        held, copy.held = copy.held, None
        self._held.pop(copy, None)
        if held is None:
            return
        while held.users:
            held.free.clear()
            await held.free.wait()
        await held.engine.close()
        _log.info("%s (%s) left memory", copy.outline.info.name, copy.outline.info.digest[:12])

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
