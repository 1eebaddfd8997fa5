"""What `serve_faults.py` asks an endpoint with, and watches it by."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

PATH = "/v1/images/generations"


class Connections:
    """Kept-alive connections that send requests and tell how they ended."""

    def __init__(self, url: str, most: int = 4_000) -> None:
        place = urlsplit(url)
        self._place = place.hostname or "127.0.0.1", place.port or 80
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(most)

    async def ask(self, body: dict[str, Any], timeout_s: float | None = None) -> tuple[int, float]:
        """The status of an answer, 0 where the connection broke, and the seconds that it took."""
        async with self._room:
            began = time.perf_counter()
            try:
                status = await self._send(request(body, timeout_s))
            except (OSError, asyncio.IncompleteReadError, ValueError):
                status = 0
            return status, time.perf_counter() - began

    async def _send(self, content: bytes) -> int:
        reader, writer = await self.open()
        writer.write(content)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        if b"connection: close" in lines:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(lines[0].split()[1])

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that nobody uses."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
        return await asyncio.open_connection(*self._place)


def request(body: dict[str, Any], timeout_s: float | None = None) -> bytes:
    """The bytes of a request for pictures."""
    content = json.dumps(body).encode()
    timeout = b"" if timeout_s is None else b"x-request-timeout: %g\r\n" % timeout_s
    return (
        b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n%b"
        b"content-length: %d\r\n\r\n%b" % (PATH.encode(), timeout, len(content), content)
    )


class Memory:
    """The resident memory of some processes and their children, looked at every second."""

    def __init__(self, pids: Sequence[int]) -> None:
        parents = [psutil.Process(pid) for pid in pids]
        children = [child for parent in parents for child in parent.children(recursive=True)]
        self._processes = [*parents, *children]
        self._ended = threading.Event()
        self.rows: list[tuple[float, float]] = []
        """Seconds, and MiB of all of them together."""

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, it is looked at."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while self._processes and not self._ended.wait(1.0):
            with contextlib.suppress(psutil.NoSuchProcess):
                used = sum(process.memory_info().rss for process in self._processes)
                self.rows.append((time.monotonic(), used / 2**20))

    def slope(self) -> tuple[float, float]:
        """MiB per minute after the first third, and its standard error."""
        rows = np.array(self.rows[len(self.rows) // 3 :])
        if len(rows) < 4:
            return 0.0, 0.0
        minutes = (rows[:, 0] - rows[0, 0]) / 60
        (slope, _), covariance = np.polyfit(minutes, rows[:, 1], 1, cov=True)
        return float(slope), float(np.sqrt(covariance[0, 0]))

    def check(self) -> dict[str, bool]:
        """Whether it does not grow, as far as can be told, by more than 1 % of itself."""
        if not self.rows:
            return {}
        slope, error = self.slope()
        lasted = (self.rows[-1][0] - self.rows[0][0]) / 60
        return {"memory flat": slope < 3 * error or slope * lasted < 0.01 * self.rows[0][1]}


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it comes true within a time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def answer_of(client: Any, url: str, seed: int) -> tuple[str, str]:
    """The digest that an answer names, and the picture of a seed in base64."""
    options = {} if isinstance(client, httpx.Client) else {"trust_env": False}
    answer = client.post(f"{url}{PATH}", json={"prompt": "random", "seed": seed}, **options)
    content = answer.raise_for_status().json()
    return str(content["digest"]), str(content["data"][0]["b64_json"])


def picture(url: str, seed: int) -> str:
    """The picture of a seed, in base64, as it is while nothing happens."""
    return answer_of(httpx, url, seed)[1]
