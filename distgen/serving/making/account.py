"""What is made for one request, how long that takes and may take, and who is told of it.

Meters are of the whole process, as loggers are: whoever makes something tells all of them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


class DeadlineError(Exception):
    """A request whose time passed before its pictures were made."""


@dataclass(eq=False, slots=True)
class Account:
    """The account of one request. The three times add up to what its pictures took."""

    deadline: float = math.inf
    """`time.monotonic()` from which on nobody waits for the pictures."""
    model: str = ""
    """Name of the model that was asked for pictures."""
    digest: str = ""
    """Of the bundle whose weights make them."""
    pictures: int = 0
    """How many were asked for."""
    queue_s: float = 0.0
    """Waited, before and between batches."""
    forward_s: float = 0.0
    """In the batches that held a picture of this request."""
    encode_s: float = 0.0
    """From the end of the last of them until all files were written."""

    def require_time(self) -> None:
        """Refuse to begin what nobody will wait for.

        Raises:
            DeadlineError: The deadline has passed.
        """
        if time.monotonic() >= self.deadline:
            raise DeadlineError


class Meter(Protocol):
    """Whoever counts what a process does; called on the event loop, so quickly."""

    def request(
        self, route: str, status: int, reason: str, seconds: float, account: Account
    ) -> None:
        """A request has been answered.

        Args:
            route: The path's pattern; `other` for paths that do not exist.
            status: HTTP status; 499 where the client hung up first.
            reason: The error's code; empty where there was none.
            seconds: From its first byte to the answer's last.
            account: What was made for it.
        """

    def batch(self, model: str, size: int) -> None:
        """The network has made a batch of so many pictures."""

    def swap(self, model: str, outcome: str) -> None:
        """Other weights were to take over: `done`, or a word for why not."""


METERS: list[Meter] = []
"""All meters of this process."""

_CURRENT: ContextVar[Account | None] = ContextVar("account", default=None)


@contextmanager
def opened(account: Account) -> Iterator[None]:
    """Inside, what is made goes to this account."""
    token = _CURRENT.set(account)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Account:
    """The account of the request on whose behalf this code runs; one for nobody without any."""
    return _CURRENT.get() or Account()


async def in_time(waiting: Awaitable[T]) -> T:
    """What is waited for, or an end of it at the deadline of the request.

    Raises:
        DeadlineError: The deadline has passed.
    """
    left_s = current().deadline - time.monotonic()
    try:
        async with asyncio.timeout(None if left_s == math.inf else max(0.0, left_s)):
            return await waiting
    except TimeoutError as error:
        raise DeadlineError from error


def tell_batch(model: str, size: int) -> None:
    """Tell all meters of a batch."""
    for meter in METERS:
        meter.batch(model, size)


def tell_swap(model: str, outcome: str) -> None:
    """Tell all meters that other weights took over (`done`), or why they did not."""
    for meter in METERS:
        meter.swap(model, outcome)
