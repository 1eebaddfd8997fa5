"""The fields of a request for pictures, and what is said of those that cannot be."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distgen.core.errors import did_you_mean
from distgen.serving.http.errors import RequestError, shorten
from distgen.serving.making.encode import Format
from distgen.serving.making.sampler import MAX_SEED, MAX_TRUNCATION, MIN_TRUNCATION

MAX_IMAGES = 256


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


def _explain(error: ValidationError) -> RequestError:
    """The first problem as an API error, with the nearest name for a field that does not exist."""
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else None
    given = shorten(repr(problem["input"]))
    if problem["type"] == "extra_forbidden":
        return RequestError(
            f"There is no field {shorten(str(name))!r}; "
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


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return "too deeply nested" if isinstance(error, RecursionError) else "a number is too long"
