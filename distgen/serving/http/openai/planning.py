"""From a request's fields to what is made for it."""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from distgen.core.errors import did_you_mean
from distgen.metrics.animation import FRAMES_PER_SECOND
from distgen.serving.http.errors import RequestError, shorten
from distgen.serving.http.openai.fields import CommonFields, ImagesRequest, Way
from distgen.serving.http.openai.forms import EditForm, VariationForm
from distgen.serving.http.openai.uploads import Upload
from distgen.serving.http.openai.ways import pictures_on, vectors_of
from distgen.serving.making.encode import MOVING_FORMATS, STILL_FORMATS, Format
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.remaking import Edit, Variation, Wanted
from distgen.serving.making.sampler import Picture, picture_seed, random_label
from distgen.serving.making.workshop.orders import Encoding

_CLASS_NUMBER = re.compile(r"class:\s*(-?\d{1,9})")


@dataclass(frozen=True)
class Plan:
    """A request that will be answered: the pictures, and how to send them."""

    pictures: tuple[Wanted, ...]
    encoding: Encoding
    as_url: bool = False
    is_film: bool = False
    """Whether the pictures follow one another in one file."""
    is_stream: bool = False
    """Whether each is sent as soon as it is there."""


def plan(request: ImagesRequest, info: ModelInfo, fresh_seed: Callable[[], int]) -> Plan:
    """What to make for a request.

    Args:
        request: What the client wants.
        info: The model that is served.
        fresh_seed: Called for a seed where the request has none.

    Raises:
        RequestError: The size, a class or latents are not what is served.
    """
    seed = _seed(request, fresh_seed)
    given = [] if request.latents is None else vectors_of(request.latents, info, "latents")
    if request.interpolate is not None:
        return _plan_way(request, request.interpolate, info, seed, given)
    count = request.n or len(request.class_labels or ()) or len(given) or 1
    if given and len(given) != count:
        raise RequestError(
            f"latents has {len(given)} vectors for {count} pictures. "
            f"Give one for each, or set n to {len(given)}.",
            param="latents",
        )
    seeds = [picture_seed(seed, index) for index in range(count)]
    labels = labels_of(request.prompt, request.class_labels, info, seeds)
    vectors: Sequence[tuple[float, ...] | None] = given or [None] * count
    pictures = (
        Picture(own, label, request.truncation, request.temperature, latents)
        for own, label, latents in zip(seeds, labels, vectors, strict=True)
    )
    return _sent(request, info, tuple(pictures))


def plan_remakes(
    request: VariationForm | EditForm,
    upload: Upload,
    info: ModelInfo,
    fresh_seed: Callable[[], int],
) -> Plan:
    """What to make of a picture.

    Args:
        request: What the client wants.
        upload: The picture, and of an edit its hole.
        info: The model that is served.
        fresh_seed: Called for a seed where the request has none.

    Raises:
        RequestError: The size or a class is not what is served.
    """
    seed = _seed(request, fresh_seed)
    seeds = [picture_seed(seed, index) for index in range(request.n or 1)]
    prompt = request.prompt if isinstance(request, EditForm) else None
    made = [
        Edit(own, upload.pixels, upload.hole, label)
        if isinstance(request, EditForm)
        else Variation(own, upload.pixels, request.strength, label)
        for own, label in zip(seeds, labels_of(prompt, None, info, seeds), strict=True)
    ]
    return _sent(request, info, tuple(made))


def new_seed() -> int:
    """A seed that nobody has asked for, below 2^53, which every JSON reader keeps exact."""
    return secrets.randbits(53)


def _plan_way(
    request: ImagesRequest,
    way: Way | list[int],
    info: ModelInfo,
    seed: int,
    given: Sequence[tuple[float, ...]],
) -> Plan:
    if len(given) > 1 or request.class_labels is not None:
        param = "latents" if len(given) > 1 else "class_labels"
        raise RequestError(
            f"{param} are for separate pictures, and interpolate begins at one. "
            "Give one vector of latents, and the class as prompt.",
            param=param,
        )
    if isinstance(way, list):
        if request.seed is not None or given:
            raise RequestError(
                "interpolate is a list of seeds, of which the first is where the way begins. "
                "Leave seed and latents out.",
                param="interpolate",
            )
        seed = way[0]
    (label,) = labels_of(request.prompt, None, info, [seed])
    latents = given[0] if given else None
    start = Picture(seed, label, request.truncation, request.temperature, latents)
    count = request.n or 1
    return _sent(request, info, pictures_on(way, start, info, count), is_film=count == 1)


def _seed(request: CommonFields, fresh_seed: Callable[[], int]) -> int:
    return fresh_seed() if request.seed is None else request.seed


def _sent(
    request: CommonFields, info: ModelInfo, pictures: tuple[Wanted, ...], is_film: bool = False
) -> Plan:
    if request.size not in (None, "auto", info.size):
        raise RequestError(
            f"size {shorten(request.size)!r} is not what this model makes. "
            f"Use {info.size!r} or 'auto'.",
            param="size",
        )
    is_stream = bool(getattr(request, "stream", None))
    if is_stream and request.response_format == "url":
        raise RequestError(
            "response_format cannot be 'url' in a stream. Use 'b64_json', or leave the field out.",
            param="response_format",
        )
    rate = request.frame_rate if isinstance(request, ImagesRequest) else None
    quality = 95 if request.output_compression is None else request.output_compression
    return Plan(
        pictures,
        Encoding(_format(request, info, rate, is_film), quality, rate or FRAMES_PER_SECOND),
        as_url=request.response_format == "url",
        is_film=is_film,
        is_stream=is_stream,
    )


def _format(request: CommonFields, info: ModelInfo, rate: int | None, is_film: bool) -> Format:
    is_moving = is_film or info.spec.frames is not None
    formats = MOVING_FORMATS if is_moving else STILL_FORMATS
    made = "this model makes clips" if is_moving else "this model makes single pictures"
    if is_film:
        made = "the way between pictures is one file in which they play"
    if request.output_format not in (None, *formats):
        raise RequestError(
            f"output_format cannot be {request.output_format!r}: {made}. "
            f"Use {' or '.join(map(repr, formats))}.",
            param="output_format",
        )
    if rate is not None and not is_moving:
        raise RequestError(
            f"frame_rate is for clips, and {made}. Leave the field out.", param="frame_rate"
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
    by_name = _by_name(info.classes)
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


def labels_of(
    prompt: str | None,
    class_labels: Sequence[str | int] | None,
    info: ModelInfo,
    seeds: Sequence[int],
) -> list[int | None]:
    """The class of each picture, None for a model without classes.

    Args:
        prompt: One class for all, or what leaves it open.
        class_labels: A class for each.
        info: The model.
        seeds: Of each; they draw a class that is left open.

    Raises:
        RequestError: There is no such class, or not one for each.
    """
    prompt = (prompt or "").strip()
    # A class may itself be called "random": then it wins.
    is_open = prompt == "" or (
        _normal(prompt) == "random" and "random" not in _by_name(info.classes)
    )
    if class_labels is not None:
        if not is_open:
            raise RequestError(
                "prompt and class_labels both name classes. Leave one of them out.",
                param="class_labels",
            )
        if len(class_labels) != len(seeds):
            raise RequestError(
                f"class_labels has {len(class_labels)} entries for {len(seeds)} pictures. "
                f"Give one for each, or set n to {max(1, len(class_labels))}.",
                param="class_labels",
            )
        return [label_of(name, info, "class_labels") for name in class_labels]
    if not is_open:
        return [label_of(prompt, info, "prompt")] * len(seeds)
    if not info.num_classes:
        return [None] * len(seeds)
    return [random_label(seed, info.num_classes) for seed in seeds]


@lru_cache(maxsize=64)
def _by_name(classes: tuple[str, ...]) -> dict[str, int]:
    """The class that a normal name means: the first of those that share it."""
    return {_normal(known): label for label, known in reversed([*enumerate(classes)])}


def _number_of(name: str | int) -> int | None:
    if isinstance(name, int):
        return name
    match = _CLASS_NUMBER.fullmatch(name.strip().casefold())
    return int(match[1]) if match else None


def _normal(name: str) -> str:
    """Names that differ in case, spaces, hyphens or underscores are one name."""
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())
