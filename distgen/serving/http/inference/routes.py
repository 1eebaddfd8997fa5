"""The routes under `/v2`: what the server is, what its models take, and pixels as tensors."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response

import distgen
from distgen.serving.http.bodies import described
from distgen.serving.http.body import read_body
from distgen.serving.http.errors import (
    EVERYWHERE,
    FOR_PICTURES,
    RequestError,
    documented,
    shorten,
)
from distgen.serving.http.inference.planning import (
    metadata,
    output_of,
    pictures_of,
    require_small,
    wanted_outputs,
)
from distgen.serving.http.inference.tensors import (
    HEADER_LENGTH,
    InferRequest,
    inflate,
    parse,
    render,
)
from distgen.serving.http.openai.answering import DIGEST_HEADER
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.shelf import Described, Shelf
from distgen.serving.making.workshop.orders import RAW

_MODEL = "/v2/models/{name}"
_SHORTEST_VERSION = 12  # of a digest, as it is printed
_INFERRED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "application/octet-stream": {}}}
}


class Inference:
    """Answers the Open Inference Protocol. A model's version is its digest, or a beginning of it:
    who names one gets pictures of these weights or none.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def add_routes(self, app: FastAPI) -> None:
        """Add everything under `/v2`."""
        plain = documented(*EVERYWHERE, inference=True)
        known = documented(*EVERYWHERE, HTTPStatus.NOT_FOUND, inference=True)
        app.add_api_route("/v2", self.server, responses=plain)
        app.add_api_route("/v2/health/live", self.live, responses=plain)
        app.add_api_route("/v2/health/ready", self.ready, responses=plain)
        app.add_api_route("/v2/repository/index", self.index, methods=["POST"], responses=plain)
        versions = _MODEL + "/versions/{version}"
        app.add_api_route(_MODEL, self.model, responses=known)
        app.add_api_route(versions, self.model_version, responses=known)
        app.add_api_route(f"{_MODEL}/ready", self.model_ready, responses=known)
        app.add_api_route(f"{versions}/ready", self.model_version_ready, responses=known)
        for place, infer in ((_MODEL, self.infer), (versions, self.infer_version)):
            app.add_api_route(
                f"{place}/infer",
                infer,
                methods=["POST"],
                openapi_extra=described(InferRequest),
                responses=_INFERRED | documented(*EVERYWHERE, *FOR_PICTURES, inference=True),
            )

    async def server(self) -> dict[str, Any]:
        """What answers here."""
        return {
            "name": "distgen",
            "version": distgen.__version__,
            "extensions": ["binary_tensor_data"],
        }

    async def live(self) -> dict[str, bool]:
        """That it answers."""
        return {"live": True}

    async def ready(self) -> dict[str, bool]:
        """That its models are loaded; before that nothing answers."""
        return {"ready": True}

    async def index(self) -> list[dict[str, str]]:
        """The models that are served."""
        return [_indexed(self._shelf.describe(info.name)) for info in self._shelf.models()]

    async def model(self, name: str) -> dict[str, Any]:
        """What a model takes and gives."""
        return self._metadata(name)

    async def model_version(self, name: str, version: str) -> dict[str, Any]:
        """What a model of these weights takes and gives."""
        return self._metadata(name, version)

    async def model_ready(self, name: str) -> dict[str, Any]:
        """Whether a model answers; one that is not in memory is loaded when it is asked."""
        return self._readiness(name)

    async def model_version_ready(self, name: str, version: str) -> dict[str, Any]:
        """Whether a model of these weights answers."""
        return self._readiness(name, version)

    async def infer(self, request: Request, name: str) -> Response:
        """Pixels `[n, H, W, C]`, or `[n, T, H, W, C]` of clips, for n seeds."""
        return await self._infer(request, name)

    async def infer_version(self, request: Request, name: str, version: str) -> Response:
        """The same from these weights and no others."""
        return await self._infer(request, name, version)

    def _metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        return metadata(self._described(name, version).info)

    def _readiness(self, name: str, version: str | None = None) -> dict[str, Any]:
        found = self._described(name, version)
        if not found.answers:
            raise RequestError(
                f"The model {found.info.name!r} cannot be loaded now: {found.problem}. "
                "It is tried again within a minute.",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                code="model_unavailable",
            )
        return {"name": found.info.name, "ready": True}

    def _described(self, name: str, version: str | None) -> Described:
        found = self._shelf.describe(name)
        _require_version(found.info, version)
        return found

    async def _infer(self, request: Request, name: str, version: str | None = None) -> Response:
        body = inflate(await read_body(request), request.headers.get("content-encoding"))
        wanted, values = parse(body, request.headers.get(HEADER_LENGTH))
        async with self._shelf.lend(name) as engine:
            info = engine.info
            _require_version(info, version)
            pictures = pictures_of(wanted, values, info)
            outputs = wanted_outputs(wanted, info)
            require_small(outputs, len(pictures), info)
            pixels = b"".join(await engine.generate(pictures, RAW))
        head = {"model_name": info.name, "model_version": info.digest}
        if wanted.id is not None:
            head["id"] = wanted.id
        tensors = [
            (output_of(output, pictures, pixels, info), binary) for output, binary in outputs
        ]
        headers = {DIGEST_HEADER: info.digest}
        if all(binary for _, binary in outputs):
            content, length = render(head, tensors)
        else:  # a million numbers take a while
            content, length = await asyncio.to_thread(render, head, tensors)
        if length == len(content):
            return Response(content, media_type="application/json", headers=headers)
        headers[HEADER_LENGTH] = str(length)
        return Response(content, media_type="application/octet-stream", headers=headers)


def _indexed(found: Described) -> dict[str, str]:
    state, reason = "READY", "" if found.loaded else "not in memory: loaded when it is asked"
    if not found.answers:
        state, reason = "UNAVAILABLE", found.problem
    return {
        "name": found.info.name,
        "version": found.info.digest,
        "state": state,
        "reason": reason,
    }


def _require_version(info: ModelInfo, version: str | None) -> None:
    if version is None or (len(version) >= _SHORTEST_VERSION and info.digest.startswith(version)):
        return
    raise RequestError(
        f"The version {shorten(version)!r} of {info.name!r} is not served here. "
        f"Use {info.digest!r}, or leave the version out.",
        status=HTTPStatus.NOT_FOUND,
    )
