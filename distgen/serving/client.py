"""A plain client of the endpoint, whose errors say what to do."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
from PIL import Image

from distgen.core.errors import DistgenError, UsageError
from distgen.core.ports import is_loopback
from distgen.core.storage import sha256_of
from distgen.metrics.animation import FRAMES_PER_SECOND, frames_of
from distgen.serving.making.encode import UInt8Images
from distgen.serving.making.sampler import MAX_TRUNCATION, MIN_TRUNCATION
from distgen.serving.saved import Record

GENERATIONS = "/v1/images/generations"
VARIATIONS = "/v1/images/variations"
EDITS = "/v1/images/edits"
DEFAULT_URL = "http://127.0.0.1:8000"

Content = TypeVar("Content")


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    images_nhwc: UInt8Images
    """Pictures `[n, H, W, C]`, or clips `[n, T, H, W, C]`."""
    seeds: tuple[int, ...]
    """Each picture's own: sent with n=1, it brings the picture back."""
    labels: tuple[str, ...]
    """Each picture's class name; empty for a model without classes."""
    model: str
    digest: str
    """SHA-256 of the bundle's manifest."""
    files: tuple[bytes, ...] = ()
    """Each picture's file as it came."""
    path: str = GENERATIONS
    """Where it was asked for."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """What brings the same answer: the fields that were sent, and the seed."""
    uploads: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the pictures that were sent along, by field."""

    def record(self, index: int | None = None) -> Record:
        """What a file that shows the picture with this index, or all of them, is known by."""
        files = self.files if index is None else self.files[index : index + 1]
        return Record(
            model=self.model,
            digest=self.digest,
            path=self.path,
            request=dict(self.request),
            uploads=dict(self.uploads),
            sha256=tuple(sha256_of(file) for file in files),
            index=index,
        )


class Client:
    """Asks one endpoint for pictures.

    Args:
        url: Where it answers, without `/v1`.
        timeout_s: For one request.
        key: What opens the endpoint, where it wants one.
    """

    def __init__(
        self, url: str = DEFAULT_URL, timeout_s: float = 120.0, key: str | None = None
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not a URL.", remedy=f"--url {DEFAULT_URL}")
        self._timeout_s = timeout_s
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise UsageError("A key is one word of plain characters.", where=self.url)
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}

    def model(self) -> dict[str, Any]:
        """What the endpoint says of its model.

        Raises:
            DistgenError: The endpoint cannot be reached, or answers something else.
        """
        return self._send("GET", "/v1/models", _model)

    def classes(self) -> list[str]:
        """Names of the classes that can be asked for.

        Raises:
            DistgenError: The endpoint cannot be reached, or answers something else.
        """
        classes: list[str] = self.model()["classes"]
        return classes

    def generate(
        self,
        prompt: str | None = None,
        n: int | None = 1,
        seed: int | None = None,
        truncation: float | None = None,
        class_labels: Sequence[str | int] | None = None,
        model: str | None = None,
        **controls: Any,
    ) -> Answer:
        """Pictures of a class, or of classes drawn at random.

        Args:
            prompt: A class name, `class:7` or `random`.
            n: How many.
            seed: Same seed, same bytes.
            truncation: Bound of the latents.
            class_labels: A class for each picture, instead of a prompt.
            model: `name`, `name@alias` or `name:version`; None for the endpoint's first.
            controls: Further fields, such as `latents`, `temperature` and `interpolate`.

        Raises:
            UsageError: The endpoint refuses the request.
            DistgenError: The endpoint cannot be reached, or fails.
        """
        if truncation is not None and not math.isfinite(truncation):  # JSON has no such number
            raise UsageError(
                f"truncation cannot be {truncation}.",
                where=self.url,
                remedy=f"a number from {MIN_TRUNCATION:g} to {MAX_TRUNCATION:g}",
            )
        asked: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "n": n,
            "seed": seed,
            "truncation": truncation,
            "class_labels": None if class_labels is None else list(class_labels),
            **controls,
        }
        return self.ask(GENERATIONS, asked)

    def ask(
        self, path: str, fields: Mapping[str, Any], uploads: Mapping[str, bytes] | None = None
    ) -> Answer:
        """The pictures of any request.

        Args:
            path: Such as `/v1/images/edits`.
            fields: By name; those that are None are left out.
            uploads: Files of pictures, by name; with them a form is sent instead of JSON.

        Raises:
            UsageError: The endpoint refuses the request.
            DistgenError: The endpoint cannot be reached, or fails.
        """
        sent = {name: value for name, value in fields.items() if value is not None}

        def read(content: Any) -> Answer:
            made = _answer(content)
            known = {name: sha256_of(data) for name, data in (uploads or {}).items()}
            request = {**sent, "seed": made.seeds[0]}
            return replace(made, path=path, request=request, uploads=known)

        return self._send("POST", path, read, sent, uploads)

    def served_as(self, model: str, digest: str) -> str | None:
        """A name by which the endpoint serves these weights of a model; None where it does not.

        Raises:
            UsageError: It serves no such model.
            DistgenError: The endpoint cannot be reached, or fails.
        """

        def about(name: str) -> dict[str, Any]:
            return self._send("GET", f"/v1/models/{quote(name)}", dict)

        names: list[str] = about(model)["names"]
        # The bare name stands for any of them.
        exact = [name for name in names if name != model]
        return next((name for name in exact if about(name)["digest"] == digest), None)

    def _send(
        self,
        method: str,
        path: str,
        read: Callable[[Any], Content],
        fields: Mapping[str, Any] | None = None,
        uploads: Mapping[str, bytes] | None = None,
    ) -> Content:
        try:
            url = httpx.URL(f"{self.url}{path}")
            answer = httpx.request(
                method,
                url,
                json=None if uploads else fields,
                data=dict(fields or {}) if uploads else None,
                files={name: (name, data) for name, data in uploads.items()} if uploads else None,
                headers=self._headers,
                timeout=self._timeout_s,
                trust_env=not is_loopback(url.host),  # a proxy has another loopback
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DistgenError(
                "No endpoint answers.",
                where=self.url,
                cause=str(error) or type(error).__name__,
                remedy="distgen serve MODEL starts one; --url says where it is",
            ) from error
        try:
            content = answer.json()
            if answer.is_success:
                return read(content)
        except (ValueError, LookupError, TypeError, OSError):  # not JSON, no such field, no picture
            content = None
        raise _refusal(answer, content)


def _model(content: Any) -> dict[str, Any]:
    model: dict[str, Any] = content["data"][0]
    return {**model, "classes": list(model["classes"])}


def _answer(content: Any) -> Answer:
    images = content["data"]
    rate = content.get("frame_rate", FRAMES_PER_SECOND)
    files = tuple(base64.b64decode(image["b64_json"]) for image in images)
    made = [_pixels(file, rate) for file in files]
    channels = max(array.shape[-1] for array in made)  # a clip of any model may show no colour
    return Answer(
        np.stack([np.broadcast_to(array, (*array.shape[:-1], channels)) for array in made]),
        tuple(image["seed"] for image in images),
        tuple(image["revised_prompt"] for image in images if "revised_prompt" in image),
        content["model"],
        content["digest"],
        files,
    )


def _refusal(answer: httpx.Response, content: Any) -> DistgenError:
    where = str(answer.url)
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict) or "message" not in error:
        return DistgenError(
            f"What answers there is not a distgen endpoint (HTTP {answer.status_code}).",
            where=where,
            cause=answer.text[:200] or None,
            remedy="--url with the address that `distgen serve` printed",
        )
    # The endpoint's messages are two sentences: what is wrong, and what to do.
    what, _, remedy = str(error["message"]).partition(". ")
    kind = UsageError if answer.status_code in (400, 401, 403, 404, 413) else DistgenError
    return kind(
        what.rstrip(".") + ".",
        where=f"{where}, {error['param']}" if error.get("param") else where,
        remedy=remedy or None,
    )


def _pixels(data: bytes, rate: int) -> UInt8Images:
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "GIF":
            return frames_of(data, rate)
        pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
