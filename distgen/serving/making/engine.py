"""One served model: its sampler, its batches and its encoders behind one coroutine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from distgen.core.spec import ImageSpec
from distgen.metrics.animation import AnimationFormat, animate
from distgen.models.base import Sampler as ServedNetwork
from distgen.registry.bundle import Bundle, BundleInfo
from distgen.serving.making.account import current
from distgen.serving.making.batching import Batcher
from distgen.serving.making.leading import leading_latents
from distgen.serving.making.remaking import Wanted, can_remake
from distgen.serving.making.sampler import Picture
from distgen.serving.making.workshop.hands import Draft, Hands
from distgen.serving.making.workshop.orders import RAW, Encoding, Order

MAX_WAITING = 1024
MAX_REMADE_WAITING = 128
_REMADE_TOGETHER = 8


@dataclass(frozen=True)
class ModelInfo:
    """What clients may know of the model."""

    name: str
    digest: str
    """SHA-256 of the bundle's manifest."""
    family: str
    spec: ImageSpec
    num_classes: int
    """Classes that can be asked for; 0 where the model takes none."""
    created: int
    """Unix time at which the model was loaded."""
    card: str = ""
    """The quality card in one line."""
    version: int | None = None
    """Its number in the model store, where it comes from one."""
    latent_dim: int = 0
    """Size of the vector that a picture is made of."""
    leading_latents: tuple[int, ...] = ()
    """Places in that vector worth moving by hand, the most telling first."""
    capabilities: tuple[str, ...] = ("generations",)
    """What can be asked of it (see `capabilities_of`)."""

    @property
    def size(self) -> str:
        """Width x height, as the API writes it."""
        return f"{self.spec.width}x{self.spec.height}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that can be asked for."""
        return self.spec.classes if self.num_classes else ()


def network_of(bundle: Bundle) -> ServedNetwork:
    """The bundle's network, as what it is: something that makes pictures."""
    return as_served(bundle.model)


def as_served(model: nn.Module) -> ServedNetwork:
    """The network, as something that makes pictures.

    Raises:
        TypeError: It makes none.
    """
    if not isinstance(model, ServedNetwork):
        raise TypeError(f"{type(model).__name__} makes no pictures")
    return model


def capabilities_of(network: ServedNetwork, spec: ImageSpec) -> tuple[str, ...]:
    """What can be asked of a model: `generations`, `stream`, and of models of pictures
    `interpolate`; `variations` and `edits` of those that can read pictures, too.
    """
    pictures = ("interpolate",) if spec.frames is None else ()
    remade = ("variations", "edits") if can_remake(network, spec) else ()
    return ("generations", "stream", *pictures, *remade)


def card_line(bundle: BundleInfo) -> str:
    """The quality card in one line; empty where nothing was measured."""
    card = bundle.card
    if card is None:
        return ""
    yardstick = ", ".join(f"{key} {value}" for key, value in card.yardstick.items())
    return f"{card.headline_name} {card.headline:.2f} ({yardstick})"


def info_of(
    bundle: BundleInfo,
    network: ServedNetwork,
    created: int,
    *,
    name: str | None = None,
    version: int | None = None,
) -> ModelInfo:
    """What an endpoint says of a bundle.

    Args:
        bundle: The bundle.
        network: Its network, which need not have weights.
        created: Unix time.
        name: What clients call it; by default as its maker does.
        version: Its number in the model store, where it comes from one.
    """
    return ModelInfo(
        name=name or bundle.name,
        digest=bundle.digest,
        family=bundle.config.model.family,
        spec=bundle.spec,
        num_classes=network.num_classes,
        created=created,
        card=card_line(bundle),
        version=version,
        latent_dim=network.latent_dim,
        leading_latents=leading_latents(bundle.card, network.latent_dim),
        capabilities=capabilities_of(network, bundle.spec),
    )


class Engine:
    """Makes and encodes pictures for concurrent requests, off the event loop.

    Args:
        hands: What draws and writes them.
        info: What the endpoint says of the model.
        max_waiting: Pictures that may wait or run before requests are refused.
    """

    def __init__(
        self,
        hands: Hands,
        info: ModelInfo,
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.info = info
        self.hands = hands
        self._batcher: Batcher[Order, Draft, bytes] = Batcher(
            hands.draw,
            hands.write,
            max_batch=hands.largest_batch,
            max_waiting=max_waiting,
            ahead=hands.ahead,
            name=info.name,
            kind="seeds",
        )
        self._remakes: Batcher[Order, Draft, bytes] | None = None
        if hands.can_remake:
            # Edits run the network many times over: in a queue of their own they hold up no others.
            self._remakes = Batcher(
                hands.redraw,
                hands.write,
                max_batch=_REMADE_TOGETHER,
                max_waiting=MAX_REMADE_WAITING,
                name=info.name,
                kind="remakes",
            )

    @property
    def waiting(self) -> int:
        """Pictures that wait or are being made."""
        return self._batcher.waiting + (self._remakes.waiting if self._remakes else 0)

    @property
    def max_waiting(self) -> int:
        """The most pictures that may wait; a larger request can never be taken."""
        return self._batcher.max_waiting

    async def generate(self, pictures: Sequence[Wanted], encoding: Encoding) -> list[bytes]:
        """The files of `pictures`, in order: of seeds, or all made of other pictures.

        Raises:
            QueueFullError: Too much is waiting.
            DeadlineError: The request's deadline has passed.
        """
        return await self._make(pictures, encoding)

    async def stream(
        self,
        pictures: Sequence[Wanted],
        encoding: Encoding,
        made: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """The files of `pictures` with their places, each as soon as its batch is done.

        Args:
            pictures: What to make.
            encoding: As what.
            made: Called when all are there, or none will come, however many have been taken.

        Raises:
            QueueFullError: Too much is waiting; before the first.
        """
        ready: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        making = asyncio.create_task(
            self._make(pictures, encoding, lambda index, file: ready.put_nowait((index, file)))
        )
        making.add_done_callback(lambda _: ready.put_nowait(None))
        making.add_done_callback(lambda _: made())
        try:
            while (file := await ready.get()) is not None:
                yield file
            await making
        finally:
            making.cancel()

    async def film(self, pictures: Sequence[Wanted], encoding: Encoding) -> bytes:
        """The one file, GIF or WebP, in which `pictures` follow one another.

        Raises:
            QueueFullError: Too much is waiting.
            DeadlineError: The request's deadline has passed.
        """
        pixels = b"".join(await self._make(pictures, RAW))
        frames_thwc = np.frombuffer(pixels, np.uint8).reshape(-1, *self.info.spec.shape)
        moving: AnimationFormat = "webp" if encoding.format == "webp" else "gif"
        account, started = current(), time.monotonic()
        account.require_time()
        film = await asyncio.to_thread(animate, frames_thwc, moving, encoding.rate)
        account.encode_s += time.monotonic() - started
        return film

    def require_room(self, count: int, *, remade: bool = False) -> None:
        """Refuse so many pictures before they are planned, which costs most of a refusal.

        Args:
            count: How many, at the least.
            remade: Whether they are to be made of other pictures.

        Raises:
            QueueFullError: Too much is waiting.
        """
        self._sign()
        batcher = self._remakes if remade else self._batcher
        if batcher is not None:
            batcher.require_room(count)

    def _sign(self) -> None:
        """Tell the request's account who makes its pictures."""
        account = current()
        account.model, account.digest = self.info.name, self.info.digest

    async def close(self) -> None:
        """Let the network go, once what runs is done; what waits fails."""
        await self._batcher.close()
        if self._remakes is not None:
            await self._remakes.close()
        self.hands.close()

    async def _make(
        self,
        pictures: Sequence[Wanted],
        encoding: Encoding,
        told: Callable[[int, bytes], None] | None = None,
    ) -> list[bytes]:
        """All that is asked of the engine goes through here."""
        self._sign()
        batcher = self._batcher
        if not all(isinstance(picture, Picture) for picture in pictures):
            if self._remakes is None:
                raise TypeError(f"{self.info.name} makes pictures of seeds only")
            batcher = self._remakes
        return await batcher.submit([Order(picture, encoding) for picture in pictures], told)
