"""Nothing is left of a connection that was reset while it waited for another request."""

from __future__ import annotations

import gc
import socket
import struct
import time

import pytest
from starlette.responses import PlainTextResponse
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from distgen.serving.http.resets import forget_reset_connections
from tests.unit.serving.servers import listening

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing does not wait for anything, and so resets."""


def ask(place: str, *, reset: bool) -> None:
    host, port = place.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):  # with bytes unread, closing were resetting
            more = connection.recv(1000)
            assert more, answer
            answer += more
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)


def held(protocol: type) -> list[object]:
    """Connections of this kind that something still holds."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is protocol]


def left(protocol: type, before: list[object]) -> int:
    """How many more than before are held, after a while."""
    for _ in range(50):
        # Other tests' connections are theirs.
        if not (more := sum(all(each is not old for old in before) for each in held(protocol))):
            return 0
        time.sleep(0.02)
    return more


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("name", "protocol"), [("h11", H11Protocol), ("httptools", HttpToolsProtocol)]
)
def test_lost_connections_are_let_go_of(name, protocol, reset, monkeypatch):
    # Undone after the test: what other tests find is uvicorn's own.
    monkeypatch.setattr(protocol, "connection_lost", protocol.connection_lost)
    forget_reset_connections()
    before = held(protocol)
    with listening(PlainTextResponse("ok"), http=name, timeout_keep_alive=600) as place:
        for _ in range(5):
            ask(place, reset=reset)
        assert left(protocol, before) == 0


def test_to_say_it_twice_changes_nothing(monkeypatch):
    for protocol in (H11Protocol, HttpToolsProtocol):
        monkeypatch.setattr(protocol, "connection_lost", protocol.connection_lost)
    forget_reset_connections()
    once = HttpToolsProtocol.connection_lost
    forget_reset_connections()
    assert HttpToolsProtocol.connection_lost is once
