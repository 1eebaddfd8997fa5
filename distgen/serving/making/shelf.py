"""The models that one process serves, and the engine that makes a request's pictures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from distgen.core.errors import UsageError
from distgen.serving.making.account import tell_swap
from distgen.serving.making.engine import Engine, ModelInfo
from distgen.serving.making.loading import MakeEngine, Outline
from distgen.serving.making.memory import Copy, Memory
from distgen.serving.making.references import Edition, Fixed, Reference
from distgen.serving.making.spot import Change, Spot, Tell

FOLLOW_EVERY_S = 2.0
"""How often aliases are looked at."""

_log = logging.getLogger(__name__)


class UnknownModelError(Exception):
    """A model that is not served here.

    Args:
        name: What was asked for.
        known: Names of those that are.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"the model {name!r} is not served here")
        self.name = name
        self.known = tuple(known)


@dataclass(frozen=True)
class Loan:
    """An engine that stays in memory for whoever has it."""

    engine: Engine
    give_back: Callable[[], None]
    """To be called once."""


@dataclass(frozen=True)
class Described:
    """How things stand with one model."""

    info: ModelInfo
    names: tuple[str, ...]
    """All that a request may call it."""
    loaded: bool
    """Whether it is in memory."""
    answers: bool
    """Whether it is, or can be as far as is known."""
    problem: str
    """Why it cannot be loaded, or a newer version is not served; empty where all is well."""
    trial: ModelInfo | None
    share: float
    """Of requests that go to the trial."""


class Shelf:
    """Models by name; the first is what a request gets that names none.

    Args:
        engines: At least one, of different names; they stay.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        memory = Memory(_makes_none)
        spots = []
        for engine in engines:
            copy = Copy(Outline(Edition(""), engine.info, 0))
            memory.keep(copy, engine)
            spots.append(Spot(Fixed(engine.info.name, Edition("")), memory, copy))
        self._fill(spots, memory)

    @classmethod
    def of(
        cls, references: Sequence[Reference], make: MakeEngine, memory_bytes: int | None = None
    ) -> Shelf:
        """Load what references stand for, as far as memory goes; the rest comes when it is wanted.

        Args:
            references: At least one, of different names.
            make: From editions to engines.
            memory_bytes: The most that weights may take; None: no limit.

        Raises:
            UsageError: A model alone takes more memory.
            DistgenError: A bundle is damaged, or a reference stands for nothing.
        """
        shelf = cls.__new__(cls)
        memory = Memory(make, memory_bytes)
        shelf._fill([Spot(reference, memory) for reference in references], memory)
        return shelf

    def _fill(self, spots: Sequence[Spot], memory: Memory) -> None:
        self.listeners: list[Tell] = []
        """Called with every change of what is served."""
        self._memory = memory
        self._spots = {spot.name: spot for spot in spots}
        self._first = spots[0]
        self._following: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def lend(self, name: str | None = None) -> AsyncIterator[Engine]:
        """The engine of a model, which lives at least as long as the block; as `borrow`."""
        loan = await self.borrow(name)
        try:
            yield loan.engine
        finally:
            loan.give_back()

    async def borrow(self, name: str | None = None) -> Loan:
        """The engine of a model, which lives until it is given back.

        Args:
            name: `name` leaves the choice between champion and trial open; `name@champion`,
                `name@canary` and `name:version` do not. None is the first model.

        Raises:
            UnknownModelError: There is no such model.
            UnloadableModelError: It was unloaded, and its bundle cannot be loaded again.
            DeadlineError: It does not come before the request's deadline.
        """
        copy = self._copy(name)
        held = await self._memory.borrow(copy)
        return Loan(held.engine, partial(self._memory.give_back, copy, held))

    def models(self) -> list[ModelInfo]:
        """What clients may know of each model; the first is the default."""
        return [spot.now.champion.outline.info for spot in self._spots.values()]

    def describe(self, name: str | None = None) -> Described:
        """How things stand with a model; its champion, unless the name is another's.

        Raises:
            UnknownModelError: There is no such model.
        """
        spot = self._spot(name)
        now = spot.now
        edition = None if name is None else now.names[name]
        copy = now.champion if edition is None else now.copies()[edition]
        return Described(
            copy.outline.info,
            tuple(now.names),
            copy.held is not None,
            copy.answers,
            copy.problem or spot.problem,
            None if now.trial is None else now.trial.outline.info,
            now.standing.share,
        )

    def problem(self) -> str:
        """What is wrong with any of the models, which are served all the same; or nothing."""
        told = [(s.name, s.problem) for s in self._spots.values()]
        for spot in self._spots.values():
            told += [(spot.name, copy.problem) for copy in spot.now.copies().values()]
        return "; ".join(f"{name}: {problem}" for name, problem in told if problem)

    def start(self) -> None:
        """Follow aliases from now on, in the running event loop; without any, nothing is done."""
        if self._following is None and any(s.reference.follows for s in self._spots.values()):
            self._following = asyncio.create_task(self._follow())

    async def look(self) -> None:
        """Look at all aliases once, and swap what has moved."""
        for spot in self._spots.values():
            if spot.reference.follows:
                await spot.look(self._tell)

    async def close(self) -> None:
        """End the engines when their running batches are done."""
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        await self._memory.close()

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                _log.exception("aliases could not be followed; they are looked at again")
            await asyncio.sleep(FOLLOW_EVERY_S)

    def _tell(self, change: Change) -> None:
        if change.kind != "trial":
            tell_swap(change.model, "done" if change.kind == "swap" else "refused")
        for listener in self.listeners:
            try:
                listener(change)
            except Exception:  # a full disk, say, is no reason to serve what is old
                _log.exception("a change of %s could not be told", change.model)

    def _spot(self, name: str | None) -> Spot:
        if name is None:
            return self._first
        if name in self._spots:
            return self._spots[name]
        for spot in self._spots.values():
            if name in spot.now.names:
                return spot
        known = [known for spot in self._spots.values() for known in spot.now.names]
        raise UnknownModelError(name, known)

    def _copy(self, name: str | None) -> Copy:
        return self._spot(name).choose(name)


def _makes_none(*_: object) -> Engine:
    raise UsageError("These engines are not loaded from bundles.")
