"""From a bundle on a disk to an engine that has run, or to the reason why not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from distgen.core.errors import DataError, DistgenError, UsageError
from distgen.registry.bundle import inspect_bundle, load_bundle
from distgen.registry.weights import expected_tensors, skeleton
from distgen.serving.making.engine import (
    Engine,
    ModelInfo,
    as_served,
    info_of,
    network_of,
)
from distgen.serving.making.references import Edition, Reference, Shape
from distgen.serving.making.sampler import Picture
from distgen.serving.making.workshop.hands import HandsHere


@dataclass(frozen=True)
class Outline:
    """What is known of an edition without its weights."""

    edition: Edition
    info: ModelInfo
    memory_bytes: int
    """What its parameters and buffers take."""


def outline(edition: Edition, name: str) -> Outline:
    """What an edition says of itself.

    Raises:
        DataError: It is no bundle, or its manifest or config is damaged.
    """
    bundle = inspect_bundle(edition.location)
    network = skeleton(bundle.config.model, bundle.config.image)
    info = info_of(bundle, as_served(network), int(time.time()), name=name, version=edition.version)
    size = sum(tensor.bytes for tensor in expected_tensors(network).values())
    return Outline(edition, info, size)


def shape_of(info: ModelInfo) -> Shape:
    """What clients build upon."""
    return Shape(info.spec, info.num_classes)


def require_shape(info: ModelInfo, wanted: Shape | None, where: str) -> None:
    """Refuse what does not fit what clients have seen.

    Raises:
        DataError: Size, mode, frames or classes are others.
    """
    found = shape_of(info)
    if wanted is None or found == wanted:
        return
    cause = f"it makes {found}, and what is served makes {wanted}"
    if str(found) == str(wanted):
        cause = f"its classes are {', '.join(info.classes[:24])}, and not those that are served"
    raise DataError(
        f"This version does not fit what is served as {info.name!r}.",
        where=where,
        cause=cause,
        remedy="promote one that fits, or end the endpoint and serve this one anew",
    )


MakeEngine = Callable[[Outline], Engine]
"""How editions become engines on this machine.

Raises:
    DataError: The bundle is damaged, or is another by now.
"""


def open_hands(wanted: Outline, device: str) -> HandsHere:
    """The network of an edition: every byte checked, buckets probed, one picture made.

    Raises:
        DataError: The bundle is damaged, or is another by now.
    """
    bundle = load_bundle(wanted.edition.location)
    if bundle.digest != wanted.info.digest:
        raise DataError(
            "The bundle was written anew while it was served.",
            where=wanted.edition.url,
            cause=f"its digest is {bundle.digest[:12]}, not {wanted.info.digest[:12]}",
            remedy="serve versions of the store, which never change: distgen models promote RUN",
        )
    hands = HandsHere(network_of(bundle), bundle.spec, device)
    hands.sampler.sample([Picture(seed=0, label=0 if wanted.info.num_classes else None)])
    return hands


def require_room(wanted: Outline, limit_bytes: int | None) -> None:
    """Refuse a model that alone takes more memory than there may be.

    Raises:
        UsageError: It does.
    """
    if limit_bytes is not None and wanted.memory_bytes > limit_bytes:
        raise UsageError(
            f"The model {wanted.info.name!r} does not fit into {limit_bytes:,} bytes.",
            where=wanted.edition.url,
            cause=f"its weights take {wanted.memory_bytes:,} bytes",
            remedy="--memory with more",
        )


def checked(
    references: tuple[Reference, ...], memory_bytes: int | None = None
) -> tuple[Reference, ...]:
    """The references, each of which was looked at to the last byte and keeps its shape from now on.

    Args:
        references: What is to be served.
        memory_bytes: The most that weights may take; None: no limit.

    Raises:
        UsageError: A model alone takes more memory.
        DistgenError: A bundle is damaged, or a name is gone.
    """
    found = []
    for reference in references:
        edition = reference.standing().champion
        load_bundle(edition.location)
        wanted = outline(edition, reference.name)
        require_room(wanted, memory_bytes)
        found.append(replace(reference, shape=shape_of(wanted.info)))
    return tuple(found)


def reason(error: Exception) -> str:
    """Why something could not be loaded, in one line."""
    if isinstance(error, DistgenError):
        return " ".join(filter(None, (error.what, error.cause)))
    return f"{type(error).__name__}: {error}"


def told(error: Exception) -> str:
    """The same for whoever reaches the endpoint: without paths, which others' errors may have."""
    if isinstance(error, DistgenError):
        return reason(error)
    return f"{type(error).__name__}; the endpoint's log says more"
