"""One layer before everything that an endpoint answers: no key, no answer."""

from __future__ import annotations

import math
from functools import partial
from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from distgen.serving.http.errors import RequestError, answer_of
from distgen.serving.http.gate.keyfile import Key
from distgen.serving.http.gate.keyring import Keyring
from distgen.serving.http.gate.table import need_of
from distgen.serving.making.admission import admitted_by

_MAKE = "`distgen endpoint keys add NAME` makes one."


def guarded(app: ASGIApp, keys: Keyring) -> ASGIApp:
    """`app`, which only those reach who may.

    Args:
        app: Everything that the endpoint answers.
        keys: Who may what.
    """

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks anything else, and so nothing may
            await send({"type": "websocket.close", "code": 1008})
            return
        need = need_of(scope["path"])
        if need == "open":
            await app(scope, receive, send)
            return
        try:
            key = _key_of(scope, keys)
            if need not in key.scopes:
                raise _RefusedError(
                    f"The key {key.name!r} does not open {scope['path']!r}. "
                    f"Use one with the scope {need!r}.",
                    status=HTTPStatus.FORBIDDEN,
                    code="insufficient_scope",
                    challenge=f'error="insufficient_scope", scope="{need}"',
                )
        except _RefusedError as refused:
            response = await answer_of(Request(scope), refused)
            await response(scope, receive, send)
            return
        with admitted_by(partial(_take, keys, key)):
            await app(scope, receive, send)

    return gate


class _RefusedError(RequestError):
    """A request that goes no further; the challenge says what was missing (RFC 6750)."""

    def __init__(self, message: str, *, status: int, code: str, challenge: str = "") -> None:
        super().__init__(message, status=status, code=code)
        said = f'Bearer realm="distgen", {challenge}'.removesuffix(", ")
        self.headers = {"www-authenticate": said}


def _key_of(scope: Scope, keys: Keyring) -> Key:
    sent = Headers(scope=scope).getlist("authorization")
    scheme, _, token = (sent[0] if len(sent) == 1 else "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _RefusedError(
            f"This endpoint wants a key. Send it as `Authorization: Bearer KEY`; {_MAKE}",
            status=HTTPStatus.UNAUTHORIZED,
            code="missing_api_key",
        )
    key = keys.find(token.strip())
    if key is None:
        raise _RefusedError(
            f"This key is unknown or was revoked. Use another; {_MAKE}",
            status=HTTPStatus.UNAUTHORIZED,
            code="invalid_api_key",
            challenge='error="invalid_token"',
        )
    return key


def _take(keys: Keyring, key: Key, count: int) -> None:
    """Let a key have so many pictures.

    Raises:
        RequestError: It may not, now or ever.
    """
    wait_s = keys.take(key, count)
    if math.isinf(wait_s):
        raise RequestError(
            f"{count} pictures at once are more than the {key.per_minute} a minute of the key "
            f"{key.name!r}. Ask for at most {key.per_minute}.",
            code="rate_limit_too_low",
        )
    if wait_s > 0:
        retry_after_s = math.ceil(wait_s)
        raise RequestError(
            f"The key {key.name!r} has had its {key.per_minute} pictures a minute. "
            f"Try again in {retry_after_s} s.",
            status=HTTPStatus.TOO_MANY_REQUESTS,
            code="rate_limit_exceeded",
            retry_after_s=retry_after_s,
        )
