"""Bodies of requests, none larger than it may be."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from distgen.serving.http.errors import RequestError

MAX_BODY_BYTES = 256 * 1024


async def read_body(
    request: Request, most: int = MAX_BODY_BYTES, arrived: Callable[[int], None] = lambda _: None
) -> bytes:
    """A body's bytes.

    Args:
        request: Whose.
        most: As many there may be.
        arrived: Called with the size of each part that comes.

    Raises:
        RequestError: There are more, or its length says so before it comes; or what `arrived` says.
    """
    announced = request.headers.get("content-length", "")
    # Twenty digits are more than a body can have.
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
        raise _too_large(most)
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        arrived(len(chunk))
        body += chunk
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(most: int) -> RequestError:
    return RequestError(
        f"The body is larger than {most} bytes. Ask for less at once.",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        code="body_too_large",
    )
