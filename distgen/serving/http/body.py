"""Bodies of requests, none larger than it may be."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request

from distgen.serving.http.errors import RequestError

MAX_BODY_BYTES = 256 * 1024


async def read_body(request: Request) -> bytes:
    """A body's bytes.

    Raises:
        RequestError: There are more than `MAX_BODY_BYTES`, or its length says so before it comes.
    """
    announced = request.headers.get("content-length", "")
    # Twenty digits are more than a body can have.
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> RequestError:
    return RequestError(
        f"The body is larger than {MAX_BODY_BYTES} bytes. Ask for fewer pictures at once.",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        code="body_too_large",
    )
