"""Bodies of requests, none larger than it may be."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request

from distgen.serving.http.errors import RequestError

MAX_BODY_BYTES = 256 * 1024


async def read_body(request: Request, most: int = MAX_BODY_BYTES) -> bytes:
    """A body's bytes.

    Args:
        request: Whose.
        most: As many there may be.

    Raises:
        RequestError: There are more.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise RequestError(
                f"The body is larger than {most} bytes. Ask for less at once.",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                code="body_too_large",
            )
    return bytes(body)
