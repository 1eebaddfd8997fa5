"""Stores of small real bundles, whose versions differ in their weights alone unless told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate
from distgen.models import FAMILIES, GANConfig, ModelConfig, build_networks
from distgen.registry import ModelStore, load_bundle, write_bundle
from distgen.serving.making.engine import Engine, info_of, network_of
from distgen.serving.making.loading import MakeEngine, Outline, open_hands
from distgen.serving.making.references import references
from distgen.serving.making.sampler import Picture
from distgen.serving.making.shelf import Shelf
from distgen.serving.making.workshop.orders import Encoding
from tests.unit.serving.making.here import engine_here, engine_of

SPEC = ImageSpec(height=16, width=16, mode="L", classes=("zero", "one", "two"))
GAN = GANConfig(latent_dim=4, width=8, conditional=True)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs in an event loop of its own."""

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


def bundle(
    folder: Path,
    seed: int = 0,
    spec: ImageSpec = SPEC,
    name: str = "digits",
    model: ModelConfig = GAN,
) -> Location:
    """A bundle with random weights."""
    torch.manual_seed(seed)
    write_bundle(
        locate(folder),
        model_config=model,
        spec=spec,
        state=build_networks(model, spec)[FAMILIES[model.family].served].state_dict(),
        card=None,
        samples_png=None,
        name=name,
        images_seen=1,
    )
    return locate(folder)


def store_of(folder: Path, versions: int, name: str = "digits") -> ModelStore:
    """A store with so many versions of a model; the first is its champion."""
    store = ModelStore(str(folder / "models"))
    for version in range(1, versions + 1):
        store.promote(bundle(folder / f"{name}{version}", version, name=name), force=True)
    for _ in range(versions - 1):
        store.rollback(name)
    return store


def load(wanted: Outline) -> Engine:
    """The engine of an edition, in this process."""
    return engine_of(open_hands(wanted, "cpu"), wanted.info)


def shelf_of(
    store: ModelStore, *models: str, memory_bytes: int | None = None, make: MakeEngine = load
) -> Shelf:
    """A shelf of these models, as a replica has it but for the process that draws."""
    return Shelf.of(references(models, str(store.root)), make, memory_bytes)


async def alone(place: Location, picture: Picture) -> bytes:
    """The file of a picture from an engine that nobody else asks."""
    loaded = load_bundle(place)
    network = network_of(loaded)
    engine = engine_here(network, info_of(loaded, network, created=0))
    try:
        return (await engine.generate([picture], Encoding()))[0]
    finally:
        await engine.close()
