"""One served model: its sampler, its batches and its encoders behind one coroutine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from distgen.core.spec import ImageSpec
from distgen.metrics.animation import FRAMES_PER_SECOND
from distgen.models.base import Sampler as ServedNetwork
from distgen.registry.bundle import Bundle, BundleInfo
from distgen.serving.making.batching import Batcher
from distgen.serving.making.encode import Format, encode
from distgen.serving.making.sampler import Picture, Sampler, UInt8Images

MAX_WAITING = 1024


@dataclass(frozen=True)
class Encoding:
    """How a picture's bytes are written."""

    format: Format | Literal["raw"] = "png"
    """`raw`: no file but its pixels, row by row."""
    quality: int = 95
    rate: int = FRAMES_PER_SECOND
    """Frames per second of a clip."""


RAW = Encoding("raw")


@dataclass(frozen=True)
class Order:
    """One picture and how to write it."""

    picture: Picture
    encoding: Encoding


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
    if not isinstance(bundle.model, ServedNetwork):
        raise TypeError(f"{type(bundle.model).__name__} makes no pictures")
    return bundle.model


def card_line(bundle: BundleInfo) -> str:
    """The quality card in one line; empty where nothing was measured."""
    card = bundle.card
    if card is None:
        return ""
    yardstick = ", ".join(f"{key} {value}" for key, value in card.yardstick.items())
    return f"{card.headline_name} {card.headline:.2f} ({yardstick})"


def info_of(bundle: Bundle, created: int) -> ModelInfo:
    """What an endpoint says of a bundle.

    Args:
        bundle: The bundle, loaded.
        created: Unix time.
    """
    return ModelInfo(
        name=bundle.name,
        digest=bundle.digest,
        family=bundle.config.model.family,
        spec=bundle.spec,
        num_classes=network_of(bundle).num_classes,
        created=created,
        card=card_line(bundle),
    )


class Engine:
    """Makes and encodes pictures for concurrent requests, off the event loop.

    Args:
        network: The bundle's network.
        info: What the endpoint says of it.
        device: Where the network runs.
        max_waiting: Pictures that may wait or run before requests are refused.
        encoder_threads: Threads that encode while the next batch runs.
    """

    def __init__(
        self,
        network: ServedNetwork,
        info: ModelInfo,
        *,
        device: str = "cpu",
        max_waiting: int = MAX_WAITING,
        encoder_threads: int = 1,
    ) -> None:
        self.info = info
        self.sampler = Sampler(network, info.spec, device=device)
        self._batcher: Batcher[Order, UInt8Images, bytes] = Batcher(
            self._sample,
            encode_orders,
            # A batch is a moment at which requests can join: short ones keep latency down.
            max_batch=min(max(8, self.sampler.largest_bucket), 32 if device == "cpu" else 64),
            max_waiting=max_waiting,
            finish_threads=encoder_threads,
        )

    @property
    def waiting(self) -> int:
        """Pictures that wait or are being made."""
        return self._batcher.waiting

    @property
    def max_waiting(self) -> int:
        """The most pictures that may wait; a larger request can never be taken."""
        return self._batcher.max_waiting

    async def generate(self, pictures: Sequence[Picture], encoding: Encoding) -> list[bytes]:
        """The files of `pictures`, in order.

        Raises:
            QueueFullError: Too much is waiting.
        """
        return await self._batcher.submit([Order(picture, encoding) for picture in pictures])

    async def close(self) -> None:
        """End the threads when the running batch is done."""
        await self._batcher.close()

    def _sample(self, orders: Sequence[Order]) -> list[UInt8Images]:
        return list(self.sampler.sample([order.picture for order in orders]))


def encode_orders(orders: Sequence[Order], images_hwc: Sequence[UInt8Images]) -> list[bytes]:
    """Each image as its order's encoding wants it; neighbours of one kind are encoded together."""
    files: list[bytes] = []
    for encoding, group in groupby(
        zip(orders, images_hwc, strict=True), key=lambda pair: pair[0].encoding
    ):
        if encoding.format == "raw":
            files += [image.tobytes() for _, image in group]
            continue
        batch_nhwc = np.stack([image for _, image in group])
        files += encode(batch_nhwc, encoding.format, encoding.quality, encoding.rate)
    return files
