"""A load generator in a process of its own: connections that ask as fast as they are answered.

    python -m distgen.bench.load URL CONNECTIONS REQUESTS SECONDS N

It speaks just enough HTTP/1.1 to cost little beside what it measures, and prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import numpy as np


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
    """Answers other than 200."""


async def burst(url: str, connections: int, requests: int, seconds: float, n: int) -> Load:
    """Send requests over kept-alive connections until their number or the time is up.

    Args:
        url: The endpoint.
        connections: How many ask at the same time.
        requests: The most requests in all.
        seconds: The longest time.
        n: Pictures per request.
    """
    place = urlsplit(url)
    host, port = place.hostname or "127.0.0.1", place.port or 80
    tickets = iter(range(requests))
    latencies_s: list[float] = []
    failed = 0
    started = time.perf_counter()

    async def ask() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(host, port)
        for ticket in tickets:
            before = time.perf_counter()
            if before - started > seconds:
                break
            body = json.dumps({"prompt": "random", "n": n, "seed": ticket}).encode()
            writer.write(
                b"POST /v1/images/generations HTTP/1.1\r\nhost: bench\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            if await _status(reader) != 200:
                failed += 1
            latencies_s.append(time.perf_counter() - before)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(ask() for _ in range(connections)))
    elapsed_s = time.perf_counter() - started
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


async def _status(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end; its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line[:15].lower() == b"content-length:")
    await reader.readexactly(length)
    return int(lines[0].split()[1])


if __name__ == "__main__":
    url, *numbers = sys.argv[1:]
    connections, requests, seconds, n = map(int, numbers)
    print(json.dumps(asdict(asyncio.run(burst(url, connections, requests, seconds, n)))))
