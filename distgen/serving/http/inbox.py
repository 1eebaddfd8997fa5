"""What a client still sends: the rest of a body, which must come in time, or that it hangs up."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.types import Message, Receive

from distgen.serving.http.errors import RequestError

_LISTENS_AFTER_S = 0.05
"""Most answers are there before, and to listen for the end costs more than it could save them."""


class Inbox:
    """`receive` of a request, with an end of patience for its body and an ear for its end.

    Args:
        receive: The server's own.
        patience_s: How long the whole body may take.
        answering: The task to cancel when the client hangs up, or while it waits for a late body.
    """

    def __init__(self, receive: Receive, patience_s: float, answering: asyncio.Task[None]) -> None:
        self.hung_up = False
        """Whether the client went before it had its answer."""
        self._receive = receive
        self._patience_s = patience_s
        self._answering = answering
        self._loop = asyncio.get_running_loop()
        self._is_complete = False
        self._is_receiving = False
        self._is_late = False
        self._is_closed = False
        self._timer = self._loop.call_later(patience_s, self._run_out)
        """For the body to be there; then, to begin to listen."""
        self._ear: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        """The next message.

        Raises:
            RequestError: The body takes too long (408).
        """
        if self._is_complete:
            self._listen()
            await self._gone.wait()
            return {"type": "http.disconnect"}
        if self._is_late:
            raise self._too_slow()
        self._is_receiving = True
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if not self._is_late or self._answering.uncancel():
                raise
            raise self._too_slow() from None
        finally:
            self._is_receiving = False
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._is_complete = True
            self._timer.cancel()
            self._timer = self._loop.call_later(_LISTENS_AFTER_S, self._listen)
        return message

    def close(self) -> None:
        """The answer is complete, or is about to be: what the client does now is its own affair."""
        self._is_closed = True
        self._timer.cancel()
        if self._ear is not None:
            self._ear.cancel()

    def _run_out(self) -> None:
        self._is_late = True
        if self._is_receiving:
            self._answering.cancel()

    def _too_slow(self) -> RequestError:
        return RequestError(
            f"The body did not arrive within {self._patience_s:g} s. "
            "Send it at once, or a smaller one.",
            status=HTTPStatus.REQUEST_TIMEOUT,
            code="body_too_slow",
        )

    def _listen(self) -> None:
        if self._ear is None and not self._is_closed:
            self._ear = self._loop.create_task(self._hear())

    async def _hear(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.hung_up = True
        self._gone.set()
        self._answering.cancel()
