"""What draws and writes the pictures of one model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from distgen.core.spec import ImageSpec
from distgen.models.base import Sampler as ServedNetwork
from distgen.serving.making.batching import Drawn
from distgen.serving.making.encode import UInt8Images
from distgen.serving.making.remaking import Edit, Remaker, Variation, can_remake
from distgen.serving.making.sampler import Picture, Sampler
from distgen.serving.making.workshop.orders import Order, write

Draft = Any
"""A drawn picture on its way to a file: its pixels, or what stands for them elsewhere."""


class Hands(Protocol):
    """Draws and writes pictures, for an event loop."""

    @property
    def largest_batch(self) -> int:
        """The most pictures that are drawn at once."""
        ...

    @property
    def can_remake(self) -> bool:
        """Whether it makes variations and edits."""
        ...

    @property
    def ahead(self) -> int:
        """How many batches may be handed over before the first of them is drawn."""
        ...

    async def draw(self, orders: Sequence[Order]) -> Drawn[Draft]:
        """Run the network for pictures of seeds."""
        ...

    async def redraw(self, orders: Sequence[Order]) -> Drawn[Draft]:
        """Run it for variations and edits."""
        ...

    async def write(self, orders: Sequence[Order], drafts: Sequence[Draft]) -> list[bytes]:
        """The files of drawn pictures, in order."""
        ...

    def close(self) -> None:
        """Let the network go."""
        ...


class HandsHere:
    """What draws and writes in this process; each method blocks, and any thread may call it.

    Args:
        network: The bundle's network.
        spec: What its pictures are.
        device: Where it runs.
    """

    def __init__(self, network: ServedNetwork, spec: ImageSpec, device: str = "cpu") -> None:
        self.sampler = Sampler(network, spec, device=device)
        self._remaker = Remaker(self.sampler) if can_remake(network, spec) else None
        # A batch is a moment at which requests can join: short ones keep latency down.
        limit = 32 if device == "cpu" else 64
        self.largest_batch = min(max(8, self.sampler.largest_bucket), limit)
        self.can_remake = self._remaker is not None

    def draw(self, orders: Sequence[Order]) -> Drawn[UInt8Images]:
        """Pictures `[H, W, C]` or clips, in order."""
        started = time.monotonic()
        pictures = [order.picture for order in orders if isinstance(order.picture, Picture)]
        drafts = list(self.sampler.sample(pictures))
        return Drawn(drafts, time.monotonic() - started)

    def redraw(self, orders: Sequence[Order]) -> Drawn[UInt8Images]:
        """Pictures `[H, W, C]`, in order.

        Raises:
            TypeError: The model cannot read pictures.
        """
        if self._remaker is None:
            raise TypeError("this model makes pictures of seeds only")
        started = time.monotonic()
        wanted = [o.picture for o in orders if isinstance(o.picture, Variation | Edit)]
        drafts = self._remaker.remake(wanted)
        return Drawn(drafts, time.monotonic() - started)

    def write(self, orders: Sequence[Order], drafts: Sequence[UInt8Images]) -> list[bytes]:
        """Their files."""
        return write([order.encoding for order in orders], drafts)
