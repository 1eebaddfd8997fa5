"""Whether a request may have so many pictures: asked of who let it in, before they wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Check = Callable[[int], None]

_check: ContextVar[Check | None] = ContextVar("admission", default=None)


@contextmanager
def admitted_by(check: Check) -> Iterator[None]:
    """Whatever is ordered in this block, and in tasks that it starts, is asked for first.

    Args:
        check: Called with a number of pictures; raises where so many may not be.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def admit(count: int) -> None:
    """Ask for pictures.

    Args:
        count: How many.

    Raises:
        Exception: Whatever the check raises.
    """
    check = _check.get()
    if check is not None:
        check(count)
