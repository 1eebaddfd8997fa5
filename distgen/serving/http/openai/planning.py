"""From a request's fields to what is made for it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from distgen.core.errors import did_you_mean
from distgen.metrics.animation import FRAMES_PER_SECOND
from distgen.serving.http.errors import RequestError, shorten
from distgen.serving.http.openai.fields import ImagesRequest
from distgen.serving.making.encode import MOVING_FORMATS, STILL_FORMATS, Format
from distgen.serving.making.engine import Encoding, ModelInfo
from distgen.serving.making.sampler import Picture, picture_seed, random_label

_CLASS_NUMBER = re.compile(r"class:\s*(-?\d{1,9})")


@dataclass(frozen=True)
class Plan:
    """A request that will be answered: the pictures, and how to send them."""

    pictures: tuple[Picture, ...]
    encoding: Encoding
    as_url: bool


def plan(request: ImagesRequest, info: ModelInfo, fresh_seed: int) -> Plan:
    """What to make for a request.

    Args:
        request: What the client wants.
        info: The model that is served.
        fresh_seed: Used where the request has no seed.

    Raises:
        RequestError: The size or a class is not what is served.
    """
    if request.size not in (None, "auto", info.size):
        raise RequestError(
            f"size {shorten(str(request.size))!r} is not what this model makes. "
            f"Use {info.size!r} or 'auto'.",
            param="size",
        )
    seed = fresh_seed if request.seed is None else request.seed
    count = request.n or len(request.class_labels or ()) or 1
    seeds = [picture_seed(seed, index) for index in range(count)]
    labels = _labels(request, info, seeds)
    quality = 95 if request.output_compression is None else request.output_compression
    return Plan(
        tuple(Picture(s, k, request.truncation) for s, k in zip(seeds, labels, strict=True)),
        Encoding(_format(request, info), quality, request.frame_rate or FRAMES_PER_SECOND),
        as_url=request.response_format == "url",
    )


def _format(request: ImagesRequest, info: ModelInfo) -> Format:
    is_moving = info.spec.frames is not None
    formats = MOVING_FORMATS if is_moving else STILL_FORMATS
    made = "clips" if is_moving else "single pictures"
    if request.output_format not in (None, *formats):
        raise RequestError(
            f"output_format cannot be {request.output_format!r}: this model makes {made}. "
            f"Use {' or '.join(map(repr, formats))}.",
            param="output_format",
        )
    if request.frame_rate is not None and not is_moving:
        raise RequestError(
            f"frame_rate is for clips, and this model makes {made}. Leave the field out.",
            param="frame_rate",
        )
    return request.output_format or formats[0]


def label_of(name: str | int, info: ModelInfo, param: str) -> int:
    """The class that a name, `class:7`, or a number means.

    Raises:
        RequestError: There is no such class.
    """
    if not info.num_classes:
        raise RequestError(
            f"{name!r} names a class, and this model has none. Use the prompt 'random'.",
            param=param,
            code="unknown_class",
        )
    number = _number_of(name)
    if number is not None:
        if not 0 <= number < info.num_classes:
            raise RequestError(
                f"There is no class {number}. This model's classes are 0 to "
                f"{info.num_classes - 1}: {', '.join(info.classes[:24])}.",
                param=param,
                code="unknown_class",
            )
        return number
    by_name = {_normal(known): label for label, known in reversed([*enumerate(info.classes)])}
    label = by_name.get(_normal(str(name)))
    if label is None:
        near = difflib.get_close_matches(_normal(str(name)), by_name, n=1)
        nearest = info.classes[by_name[near[0]]] if near else str(name)
        raise RequestError(
            f"There is no class {shorten(str(name))!r}; {did_you_mean(nearest, info.classes)}. "
            "A class is also named by its number, as in 'class:0'; 'random' draws one.",
            param=param,
            code="unknown_class",
        )
    return label


def _labels(request: ImagesRequest, info: ModelInfo, seeds: Sequence[int]) -> list[int | None]:
    prompt = (request.prompt or "").strip()
    # A class may itself be called "random": then it wins.
    is_open = prompt == "" or (
        _normal(prompt) == "random" and "random" not in map(_normal, info.classes)
    )
    if request.class_labels is not None:
        if not is_open:
            raise RequestError(
                "prompt and class_labels both name classes. Leave one of them out.",
                param="class_labels",
            )
        if len(request.class_labels) != len(seeds):
            raise RequestError(
                f"class_labels has {len(request.class_labels)} entries for {len(seeds)} pictures. "
                f"Give one for each, or set n to {max(1, len(request.class_labels))}.",
                param="class_labels",
            )
        return [label_of(name, info, "class_labels") for name in request.class_labels]
    if not is_open:
        return [label_of(prompt, info, "prompt")] * len(seeds)
    if not info.num_classes:
        return [None] * len(seeds)
    return [random_label(seed, info.num_classes) for seed in seeds]


def _number_of(name: str | int) -> int | None:
    if isinstance(name, int):
        return name
    match = _CLASS_NUMBER.fullmatch(name.strip().casefold())
    return int(match[1]) if match else None


def _normal(name: str) -> str:
    """Names that differ in case, spaces, hyphens or underscores are one name."""
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())
