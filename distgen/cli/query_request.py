"""From `distgen query`'s options to the request that is sent."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distgen.core.errors import UsageError

COUNT = 16


@dataclass(frozen=True)
class Options:
    """What was typed."""

    prompt: str
    count: int | None
    model: str | None
    seed: int | None
    truncation: float | None
    temperature: float | None
    latents: str | None
    interpolate: str | None
    steps: int | None
    vary: str | None
    strength: float | None
    edit: str | None
    mask: str | None


@dataclass(frozen=True)
class Request:
    """What is sent."""

    path: str
    fields: dict[str, Any]
    uploads: dict[str, bytes]


def request_of(options: Options) -> Request:
    """The request that some options mean.

    Raises:
        UsageError: They contradict one another, or a file is not what it should be.
    """
    from distgen.serving.client import EDITS, GENERATIONS, VARIATIONS

    _check(options)
    if options.edit or options.vary:
        source = options.edit or options.vary or ""
        uploads = {"image": _read(source, "--edit" if options.edit else "--vary")}
        if options.mask:
            uploads["mask"] = _read(options.mask, "--mask")
        count = COUNT if options.count is None else options.count
        fields: dict[str, Any] = {"model": options.model, "n": count, "seed": options.seed}
        if options.edit:
            return Request(EDITS, {**fields, "prompt": options.prompt}, uploads)
        return Request(VARIATIONS, {**fields, "strength": options.strength}, uploads)
    has_count = options.latents is not None or options.steps is not None
    fields = {
        "model": options.model,
        "prompt": options.prompt,
        "n": COUNT if options.count is None and not has_count else options.count,
        "seed": options.seed,
        "truncation": _finite(options.truncation, "truncation", 0.05, 10),
        "temperature": _finite(options.temperature, "temperature", 0, 2),
        "latents": None if options.latents is None else _latents(options.latents),
        "interpolate": None if options.interpolate is None else _way(options),
    }
    return Request(GENERATIONS, fields, {})


def uploads_of(options: Options) -> dict[str, bytes]:
    """The pictures that are named, for a request that is asked again."""
    named = {"image": options.edit or options.vary, "mask": options.mask}
    return {name: _read(path, f"--{name}") for name, path in named.items() if path}


def _check(options: Options) -> None:
    remade = [name for name in ("vary", "edit") if getattr(options, name)]
    seeds_only = ("truncation", "temperature", "latents", "interpolate", "steps")
    given = [name for name in seeds_only if getattr(options, name) is not None]
    if len(remade) == 2:
        raise _usage("A picture is varied or edited, not both.", "--vary or --edit")
    if remade and given:
        raise _usage(f"--{given[0]} is of no use with --{remade[0]}.", f"leave --{given[0]} out")
    if options.vary and options.prompt not in (None, "random"):
        raise _usage(
            "A variation shows what its picture shows; a class is of no use with --vary.",
            f"leave {options.prompt!r} out, or ask for it without --vary",
        )
    if options.mask and not options.edit:
        raise _usage("A mask says what of a picture to edit.", "--edit PICTURE --mask MASK")
    if options.strength is not None and not options.vary:
        raise _usage("--strength is how much a picture varies.", "--vary PICTURE --strength 0.5")
    if options.steps is not None and options.interpolate is None:
        raise _usage(
            "--steps are those of a way between pictures.", "--interpolate SEED --steps 16"
        )


def _way(options: Options) -> dict[str, Any]:
    try:
        *through, to = [int(seed) for seed in (options.interpolate or "").split(",")]
    except ValueError as error:
        raise _usage(
            f"{options.interpolate!r} is no seed, nor several with commas between them.",
            "--interpolate 7 or --interpolate 7,8,9",
        ) from error
    steps = {} if options.steps is None else {"steps": options.steps}
    return {"to": to, **({"through": through} if through else {}), **steps}


def _latents(path: str) -> list[Any]:
    import numpy as np

    data = _read(path, "--latents")
    try:
        if path.lower().endswith(".npy"):
            values = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            values = np.array(json.loads(data), dtype=np.float64)
        if values.ndim not in (1, 2) or not np.isfinite(values).all():
            raise ValueError(f"the shape is {list(values.shape)}")
    except (ValueError, TypeError, OSError, EOFError, RecursionError) as error:
        raise _usage(
            f"{path!r} holds no latents.",
            "a .npy or .json file with finite numbers [latent_dim] or [n, latent_dim]",
        ) from error
    listed: list[Any] = values.astype(np.float64).tolist()
    return listed


def _finite(value: float | None, name: str, least: float, most: float) -> float | None:
    import math

    if value is not None and not math.isfinite(value):  # JSON has no such number
        raise _usage(f"{name} cannot be {value}.", f"a number from {least:g} to {most:g}")
    return value


def _read(path: str, option: str) -> bytes:
    from distgen.core.storage import locate

    try:
        return locate(path).read_bytes()
    except OSError as error:
        raise _usage(f"{path!r} cannot be read.", f"{option} with a file") from error


def _usage(what: str, remedy: str) -> UsageError:
    from distgen.core.errors import UsageError

    return UsageError(what, where="distgen query", remedy=remedy)
