"""From the tensors of a request to the pictures that are made for it, and what a model takes."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distgen.core.errors import did_you_mean
from distgen.serving.http.errors import RequestError, shorten
from distgen.serving.http.inference.tensors import InferRequest, Output, Values, only
from distgen.serving.http.openai.fields import MAX_IMAGES
from distgen.serving.http.openai.planning import label_of
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.sampler import (
    MAX_SEED,
    MAX_TRUNCATION,
    MIN_TRUNCATION,
    Picture,
    random_label,
)

MAX_PIXEL_BYTES = 64 * 1024**2
"""What one answer may hold."""
MAX_JSON_VALUES = 1024**2
"""What of it may be written as JSON, which takes some fifty times as long."""

_DATATYPES = {"seed": ("INT64",), "label": ("INT64", "BYTES"), "truncation": ("FP32",)}


def metadata(info: ModelInfo) -> dict[str, Any]:
    """What `GET /v2/models/{name}` says; -1 is the number of pictures, which the client chooses."""
    inputs = [{"name": "seed", "datatype": "INT64", "shape": [-1]}]
    outputs = [
        {"name": "images", "datatype": "UINT8", "shape": [-1, *info.spec.shape]},
        {"name": "seed", "datatype": "INT64", "shape": [-1]},
    ]
    if info.num_classes:
        # As a number or, where the client says BYTES, as the class's name.
        inputs.append({"name": "label", "datatype": "INT64", "shape": [-1]})
        outputs.append({"name": "label", "datatype": "INT64", "shape": [-1]})
    inputs.append({"name": "truncation", "datatype": "FP32", "shape": [-1]})
    return {
        "name": info.name,
        "versions": [info.digest],
        "platform": f"distgen_{info.family}",
        "inputs": inputs,
        "outputs": outputs,
    }


def pictures_of(
    request: InferRequest, values: Mapping[str, Values], info: ModelInfo
) -> tuple[Picture, ...]:
    """The pictures that a request's inputs describe.

    Args:
        request: What the client sent.
        values: The values of its inputs.
        info: The model that is asked.

    Raises:
        RequestError: An input is unknown, missing, or not possible.
    """
    for tensor in request.inputs:
        datatypes = _DATATYPES.get(tensor.name)
        if datatypes is None:
            raise RequestError(
                f"There is no input {shorten(tensor.name)!r}; "
                f"{did_you_mean(tensor.name, _DATATYPES)}."
            )
        if tensor.datatype not in datatypes:
            raise RequestError(
                f"The input {tensor.name!r} cannot be {shorten(tensor.datatype)!r}. "
                f"Send {' or '.join(datatypes)}."
            )
    if "seed" not in values:
        raise RequestError("The input 'seed' is missing. Send INT64 [n], a seed for each picture.")
    seeds = [int(seed) for seed in values["seed"]]
    _require_few(len(seeds), info)
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise RequestError(f"The seed {seed} cannot be. Send numbers from 0 to {MAX_SEED}.")
    labels = _labels(values.get("label"), seeds, info)
    bounds = _truncations(values.get("truncation"), len(seeds))
    return tuple(
        Picture(seed, label, bound)
        for seed, label, bound in zip(seeds, labels, bounds, strict=True)
    )


def wanted_outputs(request: InferRequest, info: ModelInfo) -> list[tuple[str, bool]]:
    """Names of the outputs to send, and whether as bytes: all of them where none is named.

    Raises:
        RequestError: One is unknown, there twice, or asked for as what cannot be.
    """
    by_default = bool(request.parameters.get("binary_data_output", False))
    known = [output["name"] for output in metadata(info)["outputs"]]
    if not request.outputs:
        return [(name, by_default) for name in known]
    named: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in known:
            raise RequestError(
                f"There is no output {shorten(output.name)!r}; {did_you_mean(output.name, known)}."
            )
        if output.name in named:
            raise RequestError(f"The output {output.name!r} is asked for twice. Ask once.")
        only(output.parameters, {"binary_data": bool}, f"output {output.name!r}")
        named[output.name] = output.parameters.get("binary_data", by_default)
    return list(named.items())


def require_small(wanted: Sequence[tuple[str, bool]], count: int, info: ModelInfo) -> None:
    """Refuse pixels as JSON where they would be very many numbers.

    Raises:
        RequestError: They would be.
    """
    pixels = count * math.prod(info.spec.shape)
    if ("images", False) in wanted and pixels > MAX_JSON_VALUES:
        raise RequestError(
            f"{pixels} values are too many for JSON. "
            "Ask for images with the parameter binary_data, or for fewer."
        )


def output_of(name: str, pictures: Sequence[Picture], pixels: bytes, info: ModelInfo) -> Output:
    """One output of an answer.

    Args:
        name: Which.
        pictures: What was made.
        pixels: All of their pixels, one after the other.
        info: The model that made them.
    """
    count = len(pictures)
    if name == "images":
        return Output(name, "UINT8", (count, *info.spec.shape), pixels)
    numbers = [picture.seed if name == "seed" else picture.label or 0 for picture in pictures]
    return Output(name, "INT64", (count,), struct.pack(f"<{count}q", *numbers))


def _require_few(count: int, info: ModelInfo) -> None:
    most = max(1, min(MAX_IMAGES, MAX_PIXEL_BYTES // math.prod(info.spec.shape)))
    if count > most:
        raise RequestError(
            f"{count} pictures are too many for one request. Ask for at most {most}, and again."
        )


def _labels(given: Values | None, seeds: Sequence[int], info: ModelInfo) -> list[int | None]:
    if given is None:
        classes = info.num_classes
        return [random_label(seed, classes) if classes else None for seed in seeds]
    if len(given) != len(seeds):
        raise RequestError(
            f"There are {len(given)} labels for {len(seeds)} seeds. Send one for each, or none."
        )
    return [label_of(name if isinstance(name, str) else int(name), info, "label") for name in given]


def _truncations(given: Values | None, count: int) -> list[float | None]:
    if given is None:
        return [None] * count
    if len(given) not in (1, count):
        raise RequestError(
            f"There are {len(given)} truncations for {count} seeds. Send one, or one for each."
        )
    # 0.7 is not a float32: its shortest text brings back the number that was meant, and with it
    # the same picture as from a client that sent it as JSON.
    with np.errstate(over="ignore"):
        bounds = [float(str(np.float32(bound))) for bound in given]
    for bound in bounds:
        if not MIN_TRUNCATION <= bound <= MAX_TRUNCATION:
            raise RequestError(
                f"truncation cannot be {bound:g}. "
                f"Send a number from {MIN_TRUNCATION:g} to {MAX_TRUNCATION:g}."
            )
    return list(bounds if len(bounds) == count else bounds * count)
