"""Names for what a step spends its time on; they cost next to nothing until somebody measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Recorder(Protocol):
    """Who measures."""

    def span(self, name: str) -> AbstractContextManager[None]:
        """What is done inside counts for `name`, and no longer for the span around it."""
        ...

    def tail(self, name: str) -> None:
        """From the last call of this in a span until its end, the time counts for `name`."""
        ...


_NOBODY = nullcontext()
_recorder: Recorder | None = None


def span(name: str) -> AbstractContextManager[None]:
    """Name the work inside for whoever measures this process."""
    return _NOBODY if _recorder is None else _recorder.span(name)


def tail(name: str) -> None:
    """Name the rest of the span that is open, from the last call of this in it."""
    if _recorder is not None:
        _recorder.tail(name)


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let `recorder` measure the spans of this process inside."""
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before
