"""What clients hear when there is no answer: one shape of error, whatever went wrong.

On the paths of the Open Inference Protocol it is that protocol's.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from distgen.serving.making.account import DeadlineError
from distgen.serving.making.batching import QueueFullError
from distgen.serving.making.memory import UnloadableModelError
from distgen.serving.making.shelf import UnknownModelError

REASON = "distgen.reason"
"""The scope's key under which an error leaves its code, for logs and metrics."""

_log = logging.getLogger(__name__)


_WORDS = {"type": "string"}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": _WORDS,
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_INFERENCE_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_WHEN = {
    400: "The request is wrong: a field, a header, or the body itself.",
    401: "A key is missing or unknown, where the endpoint wants one.",
    403: "The key is not for this.",
    404: "There is no such model.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    429: "Too much is waiting; `Retry-After` says when to come again.",
    500: "The endpoint failed; its log says why.",
    503: "The model does not load, as the endpoint's log says, or no replica answers now.",
    504: "The request's time passed before its answer was made.",
}
EVERYWHERE = (400, 401, 403, 500)
"""Statuses that any route may answer with."""
FOR_PICTURES = (404, 408, 413, 429, 503, 504)
"""Further statuses of routes that make pictures."""


def documented(*statuses: int, inference: bool = False) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of answers that are errors, for `responses=`.

    Args:
        statuses: Theirs.
        inference: In the shape that is spoken under /v2.
    """
    content = {"application/json": {"schema": _INFERENCE_ERROR if inference else _ERROR_SCHEMA}}
    return {status: {"description": _WHEN[status], "content": content} for status in statuses}


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


def unknown_model(error: UnknownModelError) -> RequestError:
    """The error for a model that is not served here."""
    return RequestError(
        f"The model {shorten(error.name)!r} is not served here. "
        f"Use {' or '.join(map(repr, error.known))}, or leave the field out.",
        status=HTTPStatus.NOT_FOUND,
        param="model",
        code="model_not_found",
    )


def queue_full(error: QueueFullError) -> RequestError:
    """The error for a request for which there is no room now."""
    return RequestError(
        f"{error.waiting} pictures are waiting, and at most {error.max_waiting} may. "
        f"Try again in {error.retry_after_s} s, or serve more replicas.",
        status=HTTPStatus.TOO_MANY_REQUESTS,
        code="queue_full",
        retry_after_s=error.retry_after_s,
    )


def unloadable_model(error: UnloadableModelError) -> RequestError:
    """The error for a model that has left memory and does not come back."""
    return RequestError(
        f"The model {error.name!r} cannot be loaded now. The endpoint's log says why, "
        f"and in {error.retry_after_s} s it is tried again.",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        param="model",
        code="model_unavailable",
        retry_after_s=error.retry_after_s,
    )


def too_late() -> RequestError:
    """The error for a request whose time passed before its pictures were made."""
    return RequestError(
        "The request's time passed before its pictures were made. "
        "Ask for fewer at once, or allow more seconds with x-request-timeout.",
        status=HTTPStatus.GATEWAY_TIMEOUT,
        code="deadline_exceeded",
    )


def gone() -> RequestError:
    """What is said to nobody, and to the log."""
    return RequestError("The client has gone. Wait for the answer.", status=499, code="hung_up")


async def answer_of(request: Request, error: Exception) -> Response:
    """The answer to a request that ended with an error, whichever it is."""
    match error:
        case RequestError():
            shaped = error
        case UnknownModelError():
            shaped = unknown_model(error)
        case UnloadableModelError():
            shaped = unloadable_model(error)
        case QueueFullError():
            shaped = queue_full(error)
        case DeadlineError():
            shaped = too_late()
        case ClientDisconnect():
            shaped = gone()
        case HTTPException():
            shaped = _http_error(request, error)
        case _:
            _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
            shaped = RequestError(
                "The pictures could not be made. The endpoint's log says why.",
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
                code="internal_error",
            )
    request.scope[REASON] = shaped.code
    headers = dict(getattr(error, "headers", None) or {})
    if shaped.retry_after_s:
        headers["retry-after"] = str(shaped.retry_after_s)
    return JSONResponse(_body_for(request, shaped), shaped.status, headers=headers)


def _body_for(request: Request, error: RequestError) -> dict[str, Any]:
    """The error in the shape of the protocol that the path belongs to."""
    speaks_inference = f"{request.scope['path']}/".startswith("/v2/")
    return {"error": error.message} if speaks_inference else error.body()


def add_handlers(app: FastAPI) -> None:
    """Give every error that leaves a route the API's shape."""
    for kind in (
        RequestError,
        UnknownModelError,
        UnloadableModelError,
        QueueFullError,
        DeadlineError,
        ClientDisconnect,
        HTTPException,
        Exception,
    ):
        app.exception_handler(kind)(answer_of)


def _http_error(request: Request, error: HTTPException) -> RequestError:
    """Paths and methods that do not exist."""
    what = f"{request.method} {request.url.path}"
    message = {
        HTTPStatus.NOT_FOUND: f"There is no {what}. See /docs for what there is.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"There is no {what}. See /docs for the methods there are.",
    }.get(HTTPStatus(error.status_code), f"{what}: {error.detail}")
    return RequestError(message, status=error.status_code, code="not_found")


def shorten(text: str) -> str:
    """What a client sent, as far as a message repeats it."""
    return text if len(text) <= 80 else f"{text[:77]}..."
