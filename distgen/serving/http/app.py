"""The HTTP application around an engine; it knows nothing of Ray.

    POST /v1/images/generations    GET /v1/models    GET /v1/models/{id}
    GET /livez    GET /readyz    GET /docs

Errors are always `{"error": {message, type, param, code}}`.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from distgen.serving.batching import QueueFullError
from distgen.serving.engine import Engine
from distgen.serving.schemas import (
    MAX_BODY_BYTES,
    ImagesRequest,
    RequestError,
    model_body,
    parse_request,
    plan,
    response_body,
    unknown_model,
)

PATH = "/v1/images/generations"
DIGEST_HEADER = "x-distgen-digest"

_log = logging.getLogger(__name__)

_BODY_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ImagesRequest.model_json_schema()}},
    }
}


def create_app(engine: Engine) -> ASGIApp:
    """The application that answers for one engine."""
    app = _frame(engine)
    images = _Images(engine)
    app.add_api_route(PATH, images.answer, methods=["POST"], openapi_extra=_BODY_SCHEMA)

    async def images_first(scope: Scope, receive: Receive, send: Send) -> None:
        # The layers of a web framework cost as much as a picture; this one request skips them.
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            response = await images.answer(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await app(scope, receive, send)

    return images_first


class _Images:
    """Answers requests for pictures. Bodies are checked by hand, so that they have a limit and
    their errors the API's shape.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._headers = {DIGEST_HEADER: engine.info.digest}

    async def answer(self, request: Request) -> Response:
        """Pictures, or the reason why not; never raises."""
        try:
            return await self._generate(await _read_body(request))
        except RequestError as error:
            return await _request_error(request, error)
        except Exception as error:
            return await _internal_error(request, error)

    async def _generate(self, body: bytes) -> Response:
        engine = self._engine
        wanted = plan(parse_request(body), engine.info, fresh_seed=secrets.randbits(53))
        try:
            files = await engine.generate(wanted.pictures, wanted.encoding)
        except QueueFullError as error:
            raise RequestError(
                f"{engine.waiting} pictures are waiting, and at most {engine.max_waiting} may. "
                f"Try again in {error.retry_after_s} s, or serve more replicas.",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                code="queue_full",
                retry_after_s=error.retry_after_s,
            ) from error
        encoded = [base64.b64encode(file).decode("ascii") for file in files]
        answer = response_body(wanted, encoded, engine.info, created=int(time.time()))
        content = json.dumps(answer, separators=(",", ":"))
        return Response(content, media_type="application/json", headers=self._headers)


def _frame(engine: Engine) -> FastAPI:
    """Everything but the pictures: models, probes, documentation, and errors."""
    info = engine.info

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    app = FastAPI(
        title="distgen", summary="Images by class, as the OpenAI API speaks.", lifespan=lifespan
    )

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_body(info)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != info.name:
            raise unknown_model(name, info)
        return model_body(info)

    @app.get("/livez")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        # An engine exists only once its model is loaded and has run.
        return {"status": "ready", "model": info.name, "digest": info.digest}

    app.exception_handler(RequestError)(_request_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(Exception)(_internal_error)
    return app


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(
                f"The body is larger than {MAX_BODY_BYTES} bytes. Ask for fewer pictures at once.",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                code="body_too_large",
            )
    return bytes(body)


async def _request_error(_: Request, error: RequestError) -> Response:
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
    return JSONResponse(error.body(), error.status, headers=headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Paths and methods that do not exist, in the API's shape."""
    what = f"{request.method} {request.url.path}"
    message = {
        HTTPStatus.NOT_FOUND: f"There is no {what}. See /docs for what there is.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"There is no {what}. See /docs for the methods there are.",
    }.get(HTTPStatus(error.status_code), f"{what}: {error.detail}")
    shaped = RequestError(message, status=error.status_code, code="not_found")
    return JSONResponse(shaped.body(), error.status_code, headers=error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    shaped = RequestError(
        "The pictures could not be made. The endpoint's log says why.",
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        code="internal_error",
    )
    return JSONResponse(shaped.body(), shaped.status)
