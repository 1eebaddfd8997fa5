"""A load generator in a process of its own: connections that ask as fast as they are answered.

    python -m distgen.bench.load URL CONNECTIONS REQUESTS SECONDS N

It speaks just enough HTTP/1.1 to cost little beside what it measures, and prints one JSON object.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import numpy as np

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_OK = b"HTTP/1.1 200"
_CHUNK = 2**18


@dataclass(frozen=True)
class Load:
    """What one burst of requests measured."""

    requests_per_s: float
    images_per_s: float
    p50_ms: float
    """Median time from sending a request to having its answer."""
    p99_ms: float
    requests: int
    failed: int
    """Answers other than 200, and requests whose connection was closed."""


def burst(url: str, connections: int, requests: int, seconds: float, n: int) -> Load:
    """Send requests over kept-alive connections until their number or the time is up.

    Args:
        url: The endpoint.
        connections: How many ask at the same time.
        requests: The most requests in all.
        seconds: The longest time.
        n: Pictures per request.
    """
    place = urlsplit(url)
    address = place.hostname or "127.0.0.1", place.port or 80
    started = time.perf_counter()
    tickets = iter(range(requests))
    askers = [_Asker(address, tickets, started + seconds, n) for _ in range(connections)]
    with selectors.DefaultSelector() as selector:
        for asker in askers:
            if asker.ask():
                selector.register(asker.socket, selectors.EVENT_READ, asker)
        while selector.get_map():
            for key, _ in selector.select():
                if not key.data.read():
                    selector.unregister(key.fileobj)
    elapsed_s = time.perf_counter() - started
    latencies_s = [latency for asker in askers for latency in asker.latencies_s]
    failed = sum(asker.failed for asker in askers)
    done = len(latencies_s) - failed
    p50, p99 = np.percentile(latencies_s, [50, 99]) * 1e3
    return Load(
        requests_per_s=done / elapsed_s,
        images_per_s=done * n / elapsed_s,
        p50_ms=float(p50),
        p99_ms=float(p99),
        requests=len(latencies_s),
        failed=failed,
    )


class _Asker:
    """One connection that sends its next request when it has the whole answer to the last."""

    def __init__(
        self, address: tuple[str, int], tickets: Iterator[int], until: float, n: int
    ) -> None:
        self.socket = socket.create_connection(address)
        self.latencies_s: list[float] = []
        self.failed = 0
        self._tickets = tickets
        self._until = until
        self._n = n
        self._began = 0.0
        self._received = bytearray()
        self._whole = 0
        """Bytes of the answer; 0 until its head is there."""

    def ask(self) -> bool:
        """Send the next request; False where there is none, or no time for it."""
        ticket = next(self._tickets, None)
        self._began = time.perf_counter()
        if ticket is None or self._began > self._until:
            self.socket.close()
            return False
        body = b'{"prompt": "random", "n": %d, "seed": %d}' % (self._n, ticket)
        try:
            self.socket.sendall(
                b"POST /v1/images/generations HTTP/1.1\r\nhost: bench\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
        except OSError:
            return self._lost()
        return True

    def read(self) -> bool:
        """Take what has come, and ask anew after a whole answer; False: nothing more will come."""
        try:
            data = self.socket.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            return self._lost()
        self._received += data
        if not self._whole:
            head = self._received.find(b"\r\n\r\n") + 4
            if head < 4:
                return True
            length = _LENGTH.search(self._received, 0, head)
            if length is None:
                raise ValueError("an answer without a length")
            self._whole = head + int(length[1])
        if len(self._received) < self._whole:
            return True
        self._answered(self._received.startswith(_OK))
        self._received.clear()
        self._whole = 0
        return self.ask()

    def _lost(self) -> bool:
        self._answered(False)
        self.socket.close()
        return False

    def _answered(self, is_ok: bool) -> None:
        self.latencies_s.append(time.perf_counter() - self._began)
        self.failed += not is_ok


if __name__ == "__main__":
    url, *numbers = sys.argv[1:]
    connections, requests, seconds, n = map(int, numbers)
    print(json.dumps(asdict(burst(url, connections, requests, seconds, n))))
