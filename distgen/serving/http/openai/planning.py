"""What clients send and get: the OpenAI Images API, for models that know classes and not words."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distgen.core.errors import did_you_mean
from distgen.metrics.animation import FRAMES_PER_SECOND
from distgen.serving.encode import MOVING_FORMATS, STILL_FORMATS, Format
from distgen.serving.engine import Encoding, ModelInfo
from distgen.serving.sampler import (
    MAX_SEED,
    MAX_TRUNCATION,
    MIN_TRUNCATION,
    Picture,
    picture_seed,
    random_label,
)

MAX_IMAGES = 256
MAX_BODY_BYTES = 256 * 1024

_CLASS_NUMBER = re.compile(r"class:\s*(-?\d{1,9})")


class RequestError(Exception):
    """A request that gets no pictures; becomes the API's error object.

    Args:
        message: What is wrong with which value, and what to send instead.
        status: HTTP status.
        param: The field at fault.
        code: A word for programs.
        retry_after_s: When to try again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        param: str | None = None,
        code: str | None = "invalid_value",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = int(status)
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The error object."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        else:
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


class ImagesRequest(BaseModel):
    """The body of `POST /v1/images/generations`.

    Fields from `seed` on are distgen's own (`extra_body` in the OpenAI client); those of the API
    that cannot mean anything here take only the values that change nothing.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    prompt: str | None = Field(default=None, max_length=1000)
    """A class name, `class:7`, or `random` (also when empty): a class drawn for each picture."""
    model: str | None = None
    """The served model's name."""
    n: int | None = Field(default=None, ge=1, le=MAX_IMAGES)
    """Number of pictures."""
    size: str | None = None
    """`auto`, or the model's own size as WIDTHxHEIGHT."""
    output_format: Format | None = None
    """How pictures are written: `png` (default), `webp`, `jpeg`; clips: `gif` (default), `webp`."""
    output_compression: int | None = Field(default=None, ge=0, le=100)
    """Quality of pictures as `webp` and `jpeg`, 95 by default."""
    response_format: Literal["b64_json", "url"] | None = None
    """`b64_json` (default), or `url` for the same bytes as a `data:` URL."""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    """Same seed, same bytes; without it one is drawn, and reported."""
    class_labels: list[str | int] | None = Field(default=None, max_length=MAX_IMAGES)
    """A class name or number for each picture, instead of a prompt."""
    truncation: float | None = Field(
        default=None, ge=MIN_TRUNCATION, le=MAX_TRUNCATION, allow_inf_nan=False
    )
    """Bound of the latents: lower is more typical and less varied."""
    frame_rate: int | None = Field(default=None, ge=1, le=50)
    """Frames per second of clips, 10 by default."""
    user: str | None = None
    """Read by nobody."""
    quality: Literal["auto", "standard"] | None = None
    style: None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: Literal[False] | None = None
    partial_images: Literal[0] | None = None


@dataclass(frozen=True)
class Plan:
    """A request that will be answered: the pictures, and how to send them."""

    pictures: tuple[Picture, ...]
    encoding: Encoding
    as_url: bool


def parse_request(body: bytes) -> ImagesRequest:
    """The request in a body's bytes.

    Raises:
        RequestError: The body is not a JSON object, or a field is unknown or impossible.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"The body is not JSON ({_reason(error)}). "
            'Send an object such as {"prompt": "random", "n": 4}.',
            code="invalid_json",
        ) from error
    if not isinstance(value, dict):
        raise RequestError(
            f"The body is a JSON {_json_type(value)}, not an object. "
            'Send an object such as {"prompt": "random", "n": 4}.',
            code="invalid_json",
        )
    try:
        return ImagesRequest.model_validate(value)
    except ValidationError as error:
        raise _explain(error) from error


def plan(request: ImagesRequest, info: ModelInfo, fresh_seed: int) -> Plan:
    """What to make for a request.

    Args:
        request: What the client wants.
        info: The model that is served.
        fresh_seed: Used where the request has no seed.

    Raises:
        RequestError: The model, the size or a class is not what is served.
    """
    if request.model is not None and request.model != info.name:
        raise unknown_model(request.model, info)
    if request.size not in (None, "auto", info.size):
        raise RequestError(
            f"size {request.size!r} is not what this model makes. Use {info.size!r} or 'auto'.",
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


def unknown_model(name: str, info: ModelInfo) -> RequestError:
    """The error for a model that is not served here."""
    return RequestError(
        f"The model {name!r} is not served here. Use {info.name!r}, or leave the field out.",
        status=HTTPStatus.NOT_FOUND,
        param="model",
        code="model_not_found",
    )


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
            f"There is no class {_shorten(str(name))!r}; {did_you_mean(nearest, info.classes)}. "
            "A class is also named by its number, as in 'class:0'; 'random' draws one.",
            param=param,
            code="unknown_class",
        )
    return label


def response_body(
    request_plan: Plan, encoded: Sequence[str], info: ModelInfo, created: int
) -> dict[str, Any]:
    """The body of the answer.

    Args:
        request_plan: What was asked for.
        encoded: Each picture's file in base64.
        info: The model that made them.
        created: Unix time.
    """
    output_format = request_plan.encoding.format
    data: list[dict[str, Any]] = []
    for picture, text in zip(request_plan.pictures, encoded, strict=True):
        image: dict[str, Any] = (
            {"url": f"data:image/{output_format};base64,{text}"}
            if request_plan.as_url
            else {"b64_json": text}
        )
        image["seed"] = picture.seed
        if picture.label is not None:
            image["label"] = picture.label
            image["revised_prompt"] = info.classes[picture.label]
        data.append(image)
    moving: dict[str, int] = (
        {} if info.spec.frames is None else {"frame_rate": request_plan.encoding.rate}
    )
    return {
        "created": created,
        "data": data,
        "output_format": output_format,
        **moving,
        "size": info.size,
        "model": info.name,
        "digest": info.digest,
    }


def model_body(info: ModelInfo) -> dict[str, Any]:
    """The object that `GET /v1/models/{id}` answers with."""
    moving: dict[str, int] = {} if info.spec.frames is None else {"frames": info.spec.frames}
    return {
        "id": info.name,
        "object": "model",
        "created": info.created,
        "owned_by": "distgen",
        "family": info.family,
        "digest": info.digest,
        "size": info.size,
        "mode": info.spec.mode,
        **moving,
        "classes": list(info.classes),
        "card": info.card,
    }


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


def _explain(error: ValidationError) -> RequestError:
    """The first problem as an API error, with the nearest name for a field that does not exist."""
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else None
    given = _shorten(repr(problem["input"]))
    if problem["type"] == "extra_forbidden":
        return RequestError(
            f"There is no field {_shorten(str(name))!r}; "
            f"{did_you_mean(str(name), ImagesRequest.model_fields)}.",
            param=name,
            code="unknown_parameter",
        )
    if name is None:
        return RequestError(str(problem["msg"]))
    return RequestError(f"{name} cannot be {given}: {_expected(name, problem['msg'])}", param=name)


def _expected(name: str, message: str) -> str:
    if name == "n":
        return f"n is a whole number from 1 to {MAX_IMAGES}. Send more requests for more pictures."
    if name == "seed":
        return f"a seed is a whole number from 0 to {MAX_SEED}."
    if name in ("stream", "partial_images"):
        return "this model makes whole pictures at once. Leave the field out."
    choices = [repr(choice) for choice in _literals(name)]
    if choices:
        return f"use {' or '.join(choices)}, or leave the field out."
    if name == "style":
        return "a class is all that a picture is asked for by. Leave the field out."
    return f"{message[0].lower()}{message[1:]}."


def _literals(name: str) -> list[Any]:
    if name not in ImagesRequest.model_fields:
        return []
    parts = get_args(ImagesRequest.model_fields[name].annotation)
    return [choice for part in parts for choice in get_args(part) if isinstance(choice, str)]


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return "too deeply nested" if isinstance(error, RecursionError) else "a number is too long"
