"""What a client still sends: the rest of a body, which must come in time, or that it hangs up."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus

from starlette.types import Message, Receive

from distgen.serving.http.errors import RequestError


class Inbox:
    """`receive` of a request, with an end of patience for its body and an ear for its end.

    Args:
        receive: The server's own.
        patience_s: How long the whole body may take.
        answering: The task to cancel when the client hangs up.
    """

    def __init__(
        self, receive: Receive, patience_s: float, answering: asyncio.Task[None] | None
    ) -> None:
        self.hung_up = False
        """Whether the client went before it had its answer."""
        self._receive = receive
        self._patience_s = patience_s
        self._until = time.monotonic() + patience_s
        self._answering = answering
        self._ear: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        """The next message.

        Raises:
            RequestError: The body takes too long (408).
        """
        if self._ear is not None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestError(
                f"The body did not arrive within {self._patience_s:g} s. "
                "Send it at once, or a smaller one.",
                status=HTTPStatus.REQUEST_TIMEOUT,
                code="body_too_slow",
            ) from error
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._patience_s = self._until = float("inf")
            if self._answering is not None:
                self._ear = asyncio.create_task(self._listen(self._answering))
        return message

    def close(self) -> None:
        """The answer is complete, or is about to be: what the client does now is its own affair."""
        if self._ear is not None:
            self._ear.cancel()

    async def _listen(self, answering: asyncio.Task[None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.hung_up = True
        self._gone.set()
        answering.cancel()
