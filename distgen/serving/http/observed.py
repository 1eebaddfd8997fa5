"""Around the whole application: deadlines, clients that hang up, and what is told of requests.

Every request has an id (`x-request-id`, the client's own or a new one), and one line in the log
`distgen.access` where that is on. Answers with pictures say in `Server-Timing` what they took.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distgen.serving.http.errors import REASON, RequestError, answer_of
from distgen.serving.http.inbox import Inbox
from distgen.serving.http.tracing import Tracing
from distgen.serving.http.visit import HUNG_UP, ID_HEADER, Visit, begin, timeout_of
from distgen.serving.making.account import METERS, opened

ACCESS_LOG = "distgen.access"
ACCESS_LOG_VARIABLE = "DISTGEN_ACCESS_LOG"
"""`1` in the environment of an endpoint turns the access log on."""

_EVENTS = b"text/event-stream"

_log = logging.getLogger(ACCESS_LOG)


@dataclass(frozen=True)
class Terms:
    """On what terms requests are answered."""

    timeout_s: float = 120.0
    """Where a request names no time; when it has passed, the answer is 504."""
    longest_timeout_s: float = 600.0
    """The most that a request may name."""
    body_timeout_s: float = 20.0
    """For a whole body to arrive; then the answer is 408."""
    access_log: bool = False
    """Whether each request is a line in the log `distgen.access`."""
    server_names_requests: bool = False
    """Whether the server before the application answers with the request's id already."""


def wants_access_log(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment turns the access log on."""
    return environment.get(ACCESS_LOG_VARIABLE, "") not in ("", "0")


class Observed:
    """An application, and what is known of each request to it.

    Args:
        app: What answers.
        paths: Those of its routes; others share one name in metrics.
        terms: On what terms.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], terms: Terms | None = None) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._terms = terms or Terms()
        self._tracing = Tracing.find()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        visit = begin(scope, headers)
        # Servers answer each request in a task of its own.
        task = cast("asyncio.Task[None]", asyncio.current_task())
        inbox = Inbox(receive, self._terms.body_timeout_s, task)
        outbox = _Outbox(visit, send, inbox.close, names=not self._terms.server_names_requests)
        span = self._tracing.span(visit, headers) if self._tracing else nullcontext()
        with span, opened(visit.account):
            try:
                await self._answer(scope, headers, visit, inbox.receive, outbox.send)
            except asyncio.CancelledError:
                visit.status = HUNG_UP
                visit.reason = "hung_up"
                if not inbox.hung_up or task.uncancel():
                    raise
            finally:
                inbox.close()
                self._end(visit, scope)

    async def _answer(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        visit: Visit,
        receive: Receive,
        send: Send,
    ) -> None:
        terms = self._terms
        try:
            timeout_s = timeout_of(headers, terms.timeout_s, terms.longest_timeout_s)
        except RequestError as error:
            response = await answer_of(Request(scope), error)
            await response(scope, receive, send)
            return
        visit.account.deadline = visit.started + timeout_s
        await self._app(scope, receive, send)

    def _end(self, visit: Visit, scope: Scope) -> None:
        visit.seconds = time.monotonic() - visit.started
        visit.status = visit.status or 500
        visit.reason = visit.reason or scope.get(REASON, "")
        visit.route = self._route(scope)
        for meter in METERS:
            meter.request(visit.route, visit.status, visit.reason, visit.seconds, visit.account)
        if self._terms.access_log:
            _log.info(visit.line())

    def _route(self, scope: Scope) -> str:
        if "route" in scope:
            return str(scope["route"].path_format)
        return scope["path"] if scope["path"] in self._paths else "other"


class _Outbox:
    """`send` of a request: adds headers, and notes what goes out."""

    def __init__(self, visit: Visit, send: Send, ends: Callable[[], None], *, names: bool) -> None:
        self._visit = visit
        self._send = send
        self._ends = ends
        self._names = names

    async def send(self, message: Message) -> None:
        visit = self._visit
        if message["type"] == "http.response.start":
            visit.status = message["status"]
            added = []
            if self._names:
                added.append((ID_HEADER.encode(), visit.request_id.encode()))
            given = message.get("headers", ())
            # A stream begins before it is known what its pictures take.
            is_stream = any(value.startswith(_EVENTS) for _, value in given)
            if visit.account.pictures and visit.status == 200 and not is_stream:
                added.append((b"server-timing", visit.server_timing()))
            message = {**message, "headers": [*given, *added]}
        elif message["type"] == "http.response.body":
            visit.sent_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                # Once the last byte is out, servers say that the client has gone.
                self._ends()
        await self._send(message)
