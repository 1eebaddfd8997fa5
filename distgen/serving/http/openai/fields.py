"""The fields of a request for pictures, and what is said of those that cannot be."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distgen.core.errors import did_you_mean
from distgen.serving.http.errors import RequestError, shorten
from distgen.serving.making.encode import Format
from distgen.serving.making.sampler import (
    MAX_LATENT,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TRUNCATION,
    MIN_TRUNCATION,
)

MAX_IMAGES = 256
MAX_STEPS = 64

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Latents = Annotated[
    list[Annotated[float, Field(ge=-MAX_LATENT, le=MAX_LATENT, allow_inf_nan=False)]],
    Field(min_length=1),
]
Fields = TypeVar("Fields", bound="CommonFields")


class CommonFields(BaseModel):
    """What every request for pictures may say.

    Fields of the API that cannot mean anything here take only the values that change nothing.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    model: str | None = None
    """The served model's name."""
    n: int | None = Field(default=None, ge=1, le=MAX_IMAGES)
    """Number of pictures."""
    size: str | None = None
    """`auto`, or the model's own size as WIDTHxHEIGHT."""
    output_format: Format | None = None
    """How pictures are written: `png` (default), `webp`, `jpeg`; clips, and the way between
    pictures: `gif` (default), `webp`."""
    output_compression: int | None = Field(default=None, ge=0, le=100)
    """Quality of pictures as `webp` and `jpeg`, 95 by default."""
    response_format: Literal["b64_json", "url"] | None = None
    """`b64_json` (default), or `url` for the same bytes as a `data:` URL."""
    seed: Seed | None = None
    """Same seed, same bytes; without it one is drawn, and reported."""
    user: str | None = None
    """Read by nobody."""
    safety_identifier: str | None = None
    """Read by nobody."""
    quality: Literal["auto", "standard"] | None = None
    style: None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None


class Way(BaseModel):
    """Where the way leads that `interpolate` shows, from the picture that the request describes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    to: Seed | Latents | Annotated[list[Latents], Field(min_length=1, max_length=MAX_IMAGES)]
    """A seed, latents, or several latents, one after the other."""
    through: Annotated[list[Seed], Field(max_length=MAX_IMAGES)] = []
    """Seeds of pictures on the way, before `to`."""
    steps: int | None = Field(default=None, ge=2, le=MAX_STEPS)
    """Pictures from one to the next, both included: 16 by default."""
    loop: bool = False
    """Whether it leads back to where it began, so that a film has no seam."""


class ImagesRequest(CommonFields):
    """The body of `POST /v1/images/generations`.

    `seed` and the fields from `class_labels` on are distgen's own (`extra_body` in the OpenAI
    client).
    """

    prompt: str | None = Field(default=None, max_length=1000)
    """A class name, `class:7`, or `random` (also when empty): a class drawn for each picture."""
    stream: bool | None = None
    """Send each picture as an event, as soon as its batch is done."""
    partial_images: int | None = Field(default=None, ge=0, le=0)
    """Pictures are made whole: there is nothing to show before."""
    class_labels: list[str | int] | None = Field(default=None, max_length=MAX_IMAGES)
    """A class name or number for each picture, instead of a prompt."""
    truncation: float | None = Field(
        default=None, ge=MIN_TRUNCATION, le=MAX_TRUNCATION, allow_inf_nan=False
    )
    """Bound of the latents: lower is more typical and less varied."""
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)
    """Latents are multiplied by this before they are bounded: 0 is the middle of the prior."""
    latents: (
        Latents | Annotated[list[Latents], Field(min_length=1, max_length=MAX_IMAGES)] | None
    ) = None
    """A latent vector for each picture, or one for n = 1, instead of those that seeds draw."""
    interpolate: Way | Annotated[list[Seed], Field(min_length=2, max_length=MAX_IMAGES)] | None = (
        None
    )
    """The way from one picture to others: one GIF or WebP in which it plays, or with n > 1 so many
    separate pictures, evenly apart. A list of seeds leads from the first to the last."""
    frame_rate: int | None = Field(default=None, ge=1, le=50)
    """Frames per second of clips and of ways between pictures, 10 by default."""


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
    return checked(ImagesRequest, value)


def checked(kind: type[Fields], value: dict[str, Any]) -> Fields:
    """A request of this kind.

    Raises:
        RequestError: A field is unknown or impossible.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _explain(kind, error) from error


def _explain(kind: type[CommonFields], error: ValidationError) -> RequestError:
    """The first problem as an API error, with the nearest name for a field that does not exist."""
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else None
    given = shorten(repr(problem["input"]))
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        return RequestError(
            f"There is no field {shorten(str(name))!r}; "
            f"{did_you_mean(str(name), kind.model_fields)}.",
            param=shorten(str(name)),
            code="unknown_parameter",
        )
    if name is None:
        return RequestError(str(problem["msg"]))
    expected = _expected(kind, name, problem["msg"])
    return RequestError(f"{name} cannot be {given}: {expected}", param=name)


def _expected(kind: type[CommonFields], name: str, message: str) -> str:
    if name == "n":
        most = next(limit.le for limit in kind.model_fields["n"].metadata if hasattr(limit, "le"))
        return f"n is a whole number from 1 to {most}. Send more requests for more pictures."
    known = {
        "seed": f"a seed is a whole number from 0 to {MAX_SEED}.",
        "partial_images": "this model makes whole pictures at once. Leave the field out.",
        "style": "a class is all that a picture is asked for by. Leave the field out.",
        "latents": f"latents are a list of numbers from {-MAX_LATENT:g} to {MAX_LATENT:g}, or a "
        "list of such lists, one for each picture.",
        "interpolate": 'use {"to": SEED or LATENTS or several, "through": [SEED, ...], '
        f'"steps": 2 to {MAX_STEPS}, "loop": true or false}}, or a list of seeds.',
    }
    if name in known:
        return known[name]
    choices = [repr(choice) for choice in _literals(kind, name)]
    if choices:
        return f"use {' or '.join(choices)}, or leave the field out."
    return f"{message[0].lower()}{message[1:]}."


def _literals(kind: type[CommonFields], name: str) -> list[Any]:
    if name not in kind.model_fields:
        return []
    parts = get_args(kind.model_fields[name].annotation)
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
