"""Requests and answers of the Open Inference Protocol: JSON, with tensors in it or behind it.

https://github.com/kserve/open-inference-protocol, and the binary tensor extension of
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distgen.core.errors import did_you_mean
from distgen.serving.http.body import MAX_BODY_BYTES
from distgen.serving.http.errors import RequestError, shorten

HEADER_LENGTH = "inference-header-content-length"
Datatype = Literal["UINT8", "INT64", "FP32", "BYTES"]
Values = list[int] | list[float] | list[str]

_WINDOW_BITS = {"gzip": 31, "deflate": 15}  # as zlib names the two wrappers
_PACKED = {"INT64": "q", "FP32": "f"}
_JSON_TYPES: dict[str, tuple[type, ...]] = {"INT64": (int,), "FP32": (int, float), "BYTES": (str,)}
_JSON_WORDS = {"INT64": "whole numbers of 64 bits", "FP32": "numbers", "BYTES": "texts"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Input(_Part):
    """A tensor that a client sends."""

    name: str
    shape: list[int] = Field(max_length=8)
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class Wanted(_Part):
    """A tensor that a client asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(_Part):
    """The JSON of a request."""

    id: str | None = Field(default=None, max_length=256)
    parameters: dict[str, Any] = {}
    inputs: list[Input] = Field(max_length=16)
    outputs: list[Wanted] | None = Field(default=None, max_length=16)


@dataclass(frozen=True)
class Output:
    """A tensor of the answer."""

    name: str
    datatype: Datatype
    shape: Sequence[int]
    packed: bytes
    """The values as bytes, row by row, little-endian."""

    def values(self) -> list[int]:
        """The values as JSON has them."""
        if self.datatype == "UINT8":
            return list(self.packed)
        return list(struct.unpack(f"<{len(self.packed) // 8}q", self.packed))


def inflate(body: bytes, coding: str | None) -> bytes:
    """A body as it was before it was compressed, if it was.

    Args:
        body: What came.
        coding: The request's `Content-Encoding`.

    Raises:
        RequestError: The coding is unknown, the bytes are not of it, or there are too many.
    """
    if coding in (None, "", "identity"):
        return body
    if coding not in _WINDOW_BITS:
        raise RequestError(
            f"Bodies in {shorten(str(coding))!r} are not read. Send it as gzip, deflate or plain."
        )
    stream = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        plain = stream.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise RequestError(f"The body is not {coding} ({error}). Send it plain.") from error
    if len(plain) > MAX_BODY_BYTES or not stream.eof or stream.unused_data:
        raise RequestError(
            f"The body is cut short or larger than {MAX_BODY_BYTES} bytes. Send a smaller one."
        )
    return plain


def parse(body: bytes, header_length: str | None) -> tuple[InferRequest, dict[str, Values]]:
    """A request and the values of its inputs by name.

    Args:
        body: JSON, and after it the bytes of tensors that are not in it.
        header_length: `Inference-Header-Content-Length`: the bytes of JSON; None for all.

    Raises:
        RequestError: The body is not such a thing; the text says which part.
    """
    length = _length(header_length, len(body))
    try:
        request = InferRequest.model_validate(json.loads(body[:length]))
    except ValidationError as error:
        raise _explain(error) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"The first {length} bytes of the body are not JSON. Send an object with inputs, and "
            "where binary tensors follow it, its length in Inference-Header-Content-Length."
        ) from error
    only(request.parameters, {"binary_data_output": bool}, "the request")
    values: dict[str, Values] = {}
    start = length
    for tensor in request.inputs:
        if tensor.name in values:
            raise RequestError(f"The input {shorten(tensor.name)!r} is there twice. Send one.")
        only(tensor.parameters, {"binary_data_size": int}, f"input {tensor.name!r}")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            values[tensor.name] = _from_json(tensor)
            continue
        if tensor.data is not None:
            raise RequestError(
                f"The input {shorten(tensor.name)!r} has data and binary_data_size. Send one."
            )
        if not 0 <= size <= len(body) - start:
            raise RequestError(
                f"binary_data_size of {shorten(tensor.name)!r} is {size}, and {len(body) - start} "
                "bytes are left in the body. Send as many bytes as are named."
            )
        values[tensor.name] = _from_bytes(tensor, body[start : start + size])
        start += size
    if start != len(body):
        raise RequestError(
            f"{len(body) - start} bytes follow the last tensor. Name every tensor's "
            "binary_data_size, and the JSON's length in Inference-Header-Content-Length."
        )
    return request, values


def only(parameters: dict[str, Any], known: dict[str, type], where: str) -> None:
    """Refuse parameters that would not be heeded.

    Raises:
        RequestError: There is one that is unknown or of another type.
    """
    for name, value in parameters.items():
        if name not in known:
            raise RequestError(
                f"There is no parameter {shorten(name)!r} of {shorten(where)}; "
                f"{did_you_mean(name, known)}."
            )
        if type(value) is not known[name]:
            raise RequestError(
                f"{name} of {shorten(where)} cannot be {shorten(repr(value))}. "
                f"Send a {'boolean' if known[name] is bool else 'whole number'}."
            )


def render(head: dict[str, Any], outputs: Sequence[tuple[Output, bool]]) -> tuple[bytes, int]:
    """An answer's body, and the length of the JSON at its beginning.

    Args:
        head: What the JSON says besides the tensors.
        outputs: Tensors, and whether their bytes follow the JSON.
    """
    described = [
        {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        | (
            {"parameters": {"binary_data_size": len(tensor.packed)}}
            if binary
            else {"data": tensor.values()}
        )
        for tensor, binary in outputs
    ]
    text = json.dumps({**head, "outputs": described}, separators=(",", ":")).encode()
    return b"".join([text, *(tensor.packed for tensor, binary in outputs if binary)]), len(text)


def _length(header: str | None, size: int) -> int:
    if header is None:
        return size
    # Digits alone: `int` would also take signs, spaces, underscores and other scripts' digits.
    if header.isascii() and header.isdigit() and len(header) <= 9 and 0 < int(header) <= size:
        return int(header)
    raise RequestError(
        f"Inference-Header-Content-Length is {shorten(header)!r}, and the body has {size} bytes. "
        "Send the number of bytes of JSON at its beginning."
    )


def _count(tensor: Input) -> int:
    if len(tensor.shape) != 1 or tensor.shape[0] < 1:
        raise RequestError(
            f"The input {shorten(tensor.name)!r} cannot have the shape {shorten(str(tensor.shape))}"
            ". Send [n], n at least 1."
        )
    return tensor.shape[0]


def _from_json(tensor: Input) -> Values:
    count, data = _count(tensor), tensor.data
    types = _JSON_TYPES.get(tensor.datatype)
    if types is None:
        raise _unknown_datatype(tensor)
    if not isinstance(data, list) or len(data) != count:
        given = f"{len(data)} values" if isinstance(data, list) else "no list"
        raise RequestError(
            f"The input {shorten(tensor.name)!r} has the shape [{count}], and its data is {given}. "
            f"Send a list of {count}."
        )
    for value in data:
        is_sound = isinstance(value, types) and not isinstance(value, bool)
        if not is_sound or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise RequestError(
                f"{shorten(repr(value))} in {shorten(tensor.name)!r} is not {tensor.datatype}. "
                f"Send {_JSON_WORDS[tensor.datatype]}."
            )
    return [float(value) for value in data] if tensor.datatype == "FP32" else data


def _from_bytes(tensor: Input, data: bytes) -> Values:
    count = _count(tensor)
    if tensor.datatype == "BYTES":
        return _texts(tensor, data, count)
    code = _PACKED.get(tensor.datatype)
    if code is None:
        raise _unknown_datatype(tensor)
    if len(data) != count * struct.calcsize(f"<{code}"):
        raise RequestError(
            f"The input {shorten(tensor.name)!r} of {count} x {tensor.datatype} has "
            f"{len(data)} bytes. Send {count * struct.calcsize(f'<{code}')}."
        )
    return list(struct.unpack(f"<{count}{code}", data))


def _texts(tensor: Input, data: bytes, count: int) -> list[str]:
    """Each text is preceded by its length as four bytes."""
    texts: list[str] = []
    start = 0
    while start + 4 <= len(data) and len(texts) < count:
        (length,) = struct.unpack_from("<I", data, start)
        end = start + 4 + length
        if end > len(data):
            break
        texts.append(data[start + 4 : end].decode("utf-8", errors="replace"))
        start = end
    if len(texts) != count or start != len(data):
        raise RequestError(
            f"The bytes of {shorten(tensor.name)!r} are not {count} texts. "
            "Send each after its length, which is four bytes, little-endian."
        )
    return texts


def _unknown_datatype(tensor: Input) -> RequestError:
    return RequestError(
        f"The input {shorten(tensor.name)!r} cannot be {shorten(tensor.datatype)!r}; "
        f"{did_you_mean(tensor.datatype, _JSON_TYPES)}."
    )


def _explain(error: ValidationError) -> RequestError:
    problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"])) or "the request"
    if problem["type"] == "extra_forbidden":
        kinds: dict[str, type[_Part]] = {"inputs": Input, "outputs": Wanted}
        part = kinds.get(str(problem["loc"][0]), InferRequest)
        name = str(problem["loc"][-1])
        return RequestError(
            f"There is no field {shorten(place)!r}; {did_you_mean(name, part.model_fields)}."
        )
    said = str(problem["msg"])
    return RequestError(f"{shorten(place)}: {said[:1].lower()}{said[1:]}. See /docs.")
