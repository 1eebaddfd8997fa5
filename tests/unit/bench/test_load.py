"""The load generator counts what a real server answered, and what it did not."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from distgen.bench.load import burst
from tests.unit.serving.servers import served


def answering(statuses: list[int], seen: list[bytes]) -> ASGIApp:
    """An application that answers with these statuses in turn, in two parts each."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        seen.append((await receive())["body"])
        status = statuses[len(seen) % len(statuses)]
        headers = [(b"Content-Length", b"200000")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"x" * 100_000})

    return app


@pytest.mark.parametrize("statuses", [[200], [200, 429]])
def test_every_request_is_sent_once_and_counted(statuses: list[int]) -> None:
    seen: list[bytes] = []
    with served(answering(statuses, seen)) as url:
        load = burst(url, 4, 50, 60.0, 16)
    assert load.requests == len(seen) == len(set(seen)) == 50
    assert load.failed == (0 if statuses == [200] else 25)
    assert load.images_per_s == pytest.approx(16 * load.requests_per_s)
    assert 0 < load.p50_ms <= load.p99_ms
    assert sorted(seen, key=len)[0] == b'{"prompt": "random", "n": 16, "seed": 0}'


def test_it_ends_when_its_time_is_over() -> None:
    seen: list[bytes] = []
    with served(answering([200], seen)) as url:
        load = burst(url, 2, 10**9, 0.3, 1)
    assert load.requests == len(seen) > 2


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_connections_that_are_lost_are_failures(how: str) -> None:
    async def run() -> int:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}")
            if how == "closed":
                writer.close()
                return
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            load = await asyncio.to_thread(burst, f"http://127.0.0.1:{port}", 3, 100, 60.0, 1)
        return load.failed

    assert asyncio.run(run()) == 3
