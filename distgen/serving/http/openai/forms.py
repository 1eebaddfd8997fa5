"""The fields of requests that bring a picture, as forms with files."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import ConfigDict, Field

from distgen.serving.http.bodies import inlined
from distgen.serving.http.errors import RequestError
from distgen.serving.http.openai.fields import CommonFields, checked

MAX_REMADE = 32
_LAX = ConfigDict(strict=False)  # all that a form carries is text


class VariationForm(CommonFields):
    """The form of `POST /v1/images/variations`; `seed` and `strength` are distgen's own."""

    model_config = _LAX

    n: int | None = Field(default=None, ge=1, le=MAX_REMADE)
    """Number of pictures."""
    strength: float = Field(default=0.5, ge=0, le=1, allow_inf_nan=False)
    """From 0, what the model can tell of the picture, to 1, nothing of it."""


class EditForm(CommonFields):
    """The form of `POST /v1/images/edits`; `seed` is distgen's own."""

    model_config = _LAX

    n: int | None = Field(default=None, ge=1, le=MAX_REMADE)
    """Number of pictures."""
    prompt: str | None = Field(default=None, max_length=1000)
    """A class name, `class:7`, or `random` (also when empty)."""
    input_fidelity: Literal["high", "low"] | None = None
    """Of no effect: what the mask keeps comes back exactly."""
    stream: bool | None = None
    """Send each picture as an event, as soon as its batch is done."""
    partial_images: int | None = Field(default=None, ge=0, le=0)
    """Pictures are made whole: there is nothing to show before."""


Form = TypeVar("Form", VariationForm, EditForm)


def read_fields(kind: type[Form], parts: dict[str, bytes], files: tuple[str, ...]) -> Form:
    """The fields among a form's parts.

    Args:
        kind: What is asked for.
        parts: By name.
        files: Names of parts that are no fields.

    Raises:
        RequestError: A field is unknown, impossible, or no text.
    """
    texts = {name: _text(name, data) for name, data in parts.items() if name not in files}
    return checked(kind, texts)


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name!r} is not UTF-8 text. Send text.", param=name) from error


def schema(kind: type[CommonFields], *files: str) -> dict[str, object]:
    """The form's place in the documentation.

    Args:
        kind: Its fields.
        files: Names of its files; the first has to be there.
    """
    described = inlined(kind.model_json_schema())
    pictures = {name: {"type": "string", "format": "binary"} for name in files}
    described["properties"] = {**pictures, **described["properties"]}
    described["required"] = [files[0]]
    content = {"multipart/form-data": {"schema": described}}
    return {"requestBody": {"required": True, "content": content}}
