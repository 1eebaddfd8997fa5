"""A plain client of the endpoint, whose errors say what to do."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import numpy as np
from PIL import Image

from distgen.core.errors import DistgenError, UsageError
from distgen.core.ports import is_loopback
from distgen.metrics.animation import FRAMES_PER_SECOND, frames_of
from distgen.serving.making.sampler import MAX_TRUNCATION, MIN_TRUNCATION, UInt8Images

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
        n: int = 1,
        seed: int | None = None,
        truncation: float | None = None,
        class_labels: Sequence[str | int] | None = None,
    ) -> Answer:
        """Pictures of a class, or of classes drawn at random.

        Args:
            prompt: A class name, `class:7` or `random`.
            n: How many.
            seed: Same seed, same bytes.
            truncation: Bound of the latents.
            class_labels: A class for each picture, instead of a prompt.

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
            "prompt": prompt,
            "n": n,
            "seed": seed,
            "truncation": truncation,
            "class_labels": None if class_labels is None else list(class_labels),
        }
        body = {name: value for name, value in asked.items() if value is not None}
        return self._send("POST", "/v1/images/generations", _answer, body)

    def _send(
        self,
        method: str,
        path: str,
        read: Callable[[Any], Content],
        body: dict[str, Any] | None = None,
    ) -> Content:
        try:
            url = httpx.URL(f"{self.url}{path}")
            answer = httpx.request(
                method,
                url,
                json=body,
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
    made = [_pixels(base64.b64decode(image["b64_json"]), rate) for image in images]
    channels = max(array.shape[-1] for array in made)  # a clip of any model may show no colour
    return Answer(
        np.stack([np.broadcast_to(array, (*array.shape[:-1], channels)) for array in made]),
        tuple(image["seed"] for image in images),
        tuple(image["revised_prompt"] for image in images if "revised_prompt" in image),
        content["model"],
        content["digest"],
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
