"""What clients hear when there is no answer: one shape of error, whatever went wrong."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_log = logging.getLogger(__name__)


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


def add_handlers(app: FastAPI) -> None:
    """Give every error that leaves a route the API's shape."""
    app.exception_handler(RequestError)(request_error)
    app.exception_handler(HTTPException)(http_error)
    app.exception_handler(Exception)(internal_error)


async def request_error(_: Request, error: RequestError) -> Response:
    """The answer to a request that gets no pictures."""
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
    return JSONResponse(error.body(), error.status, headers=headers)


async def http_error(request: Request, error: HTTPException) -> Response:
    """Paths and methods that do not exist, in the API's shape."""
    what = f"{request.method} {request.url.path}"
    message = {
        HTTPStatus.NOT_FOUND: f"There is no {what}. See /docs for what there is.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"There is no {what}. See /docs for the methods there are.",
    }.get(HTTPStatus(error.status_code), f"{what}: {error.detail}")
    shaped = RequestError(message, status=error.status_code, code="not_found")
    return JSONResponse(shaped.body(), error.status_code, headers=error.headers)


async def internal_error(request: Request, error: Exception) -> Response:
    """The answer where distgen is at fault; the log says why."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    shaped = RequestError(
        "The pictures could not be made. The endpoint's log says why.",
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        code="internal_error",
    )
    return JSONResponse(shaped.body(), shaped.status)


def shorten(text: str) -> str:
    """What a client sent, as far as a message repeats it."""
    return text if len(text) <= 80 else f"{text[:77]}..."
