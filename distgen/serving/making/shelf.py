"""The models that one process serves, and the engine that makes a request's pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from distgen.serving.making.engine import Engine, ModelInfo


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


class Shelf:
    """Models by name; the first is what a request gets that names none.

    Args:
        engines: At least one, of different names.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = {engine.info.name: engine for engine in engines}
        self._first = engines[0].info.name

    @asynccontextmanager
    async def lend(self, name: str | None = None) -> AsyncIterator[Engine]:
        """The engine of a model, which lives at least as long as the block.

        Raises:
            UnknownModelError: There is no such model.
        """
        engine = self._engines.get(self._first if name is None else name)
        if engine is None:
            raise UnknownModelError(str(name), list(self._engines))
        yield engine

    def models(self) -> list[ModelInfo]:
        """What clients may know of each model; the first is the default."""
        return [engine.info for engine in self._engines.values()]

    async def close(self) -> None:
        """End the engines when their running batches are done."""
        await asyncio.gather(*(engine.close() for engine in self._engines.values()))
