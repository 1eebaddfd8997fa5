from __future__ import annotations

from contextlib import contextmanager

import pytest

from distgen.core.spans import recording, span


class Names:
    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def span(self, name: str):
        self.names.append(name)
        yield


def test_spans_are_heard_by_whoever_measures_and_by_nobody_else():
    recorder = Names()
    with span("before"):
        pass
    with recording(recorder), span("outer"), span("inner"):
        pass
    with span("after"):
        pass
    assert recorder.names == ["outer", "inner"]


def test_an_error_ends_the_recording():
    recorder = Names()
    with pytest.raises(ValueError, match="broken"), recording(recorder), span("step"):
        raise ValueError("broken")
    with span("after"):
        pass
    assert recorder.names == ["step"]
