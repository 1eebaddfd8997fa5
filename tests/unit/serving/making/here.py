"""Engines whose network runs in the test's own process, where the test can reach it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distgen.models.base import Sampler as ServedNetwork
from distgen.serving.making.batching import Drawn
from distgen.serving.making.engine import Engine, ModelInfo
from distgen.serving.making.workshop.hands import HandsHere
from distgen.serving.making.workshop.orders import Order


class _InThreads:
    """Blocking hands for an event loop: one thread draws, one writes."""

    ahead = 1

    def __init__(self, hands: HandsHere) -> None:
        self._hands = hands
        self._drawing = ThreadPoolExecutor(1)
        self._writing = ThreadPoolExecutor(1)
        self.sampler = hands.sampler
        self.largest_batch = hands.largest_batch
        self.can_remake = hands.can_remake

    async def draw(self, orders: Sequence[Order]) -> Drawn[Any]:
        return await _in(self._drawing, self._hands.draw, orders)

    async def redraw(self, orders: Sequence[Order]) -> Drawn[Any]:
        return await _in(self._drawing, self._hands.redraw, orders)

    async def write(self, orders: Sequence[Order], drafts: Sequence[Any]) -> list[bytes]:
        return await _in(self._writing, self._hands.write, orders, drafts)

    def close(self) -> None:
        self._drawing.shutdown()
        self._writing.shutdown()


async def _in(threads: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)


def engine_here(network: ServedNetwork, info: ModelInfo, **options: int) -> Engine:
    """An engine of a network of this process."""
    return engine_of(HandsHere(network, info.spec), info, **options)


def engine_of(hands: HandsHere, info: ModelInfo, **options: int) -> Engine:
    """Likewise, of what draws and writes."""
    return Engine(_InThreads(hands), info, **options)
