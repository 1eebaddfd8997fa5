"""A proxy on loopback that stands before a store and misbehaves as it is told."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    number: int
    """Requests for the same path and range before this one."""
    method: str
    path: str
    range: str
    """The Range header, such as `bytes=0-99`; empty where there is none."""
    signed: bool
    """Whether it said who asks."""


@dataclass(frozen=True)
class Fault:
    """How a response goes wrong. Left as it is, nothing does."""

    status: int = 0
    """Answered in place of the store."""
    code: str = "InternalError"
    """The S3 error code of that answer."""
    delay_s: float = 0.0
    """Before the response begins."""
    cut_after: float = 1.0
    """Share of the body after which the connection is closed."""
    stall_s: float = 0.0
    """Pause after half of the body."""
    trickle_s: float = 0.0
    """Pause after each 64th of the body."""
    shorter: int = 0
    """Bytes that are missing from the body and from its Content-Length."""
    flip: bool = False
    """Change a bit in the middle of the body."""
    whole: bool = False
    """Send the whole file where a part was asked for."""


Misbehaviour = Callable[[Request], Fault | None]


class FaultProxy:
    """A context manager that listens on a free port of loopback.

    Args:
        upstream: Port of the store on loopback.
        misbehaviour: Chooses the fault of each request; may be replaced while the proxy runs.
    """

    def __init__(self, upstream: int, misbehaviour: Misbehaviour = lambda _: None) -> None:
        self.upstream = upstream
        self.misbehaviour = misbehaviour
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def note(self, method: str, path: str, span: str, signed: bool) -> Request:
        """Count a request among those of its kind."""
        with self._lock:
            kind = (method, path, span)
            seen = sum((r.method, r.path, r.range) == kind for r in self.requests)
            request = Request(seen, method, path, span, signed)
            self.requests.append(request)
            return request

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_any(self) -> None:
                span = self.headers.get("Range", "")
                request = proxy.note(self.command, self.path, span, "Authorization" in self.headers)
                fault = proxy.misbehaviour(request) or Fault()
                body = self._body()
                time.sleep(fault.delay_s)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    if fault.status:
                        self._refuse(fault)
                    else:
                        self._forward(fault, body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

            def _body(self) -> bytes | None:
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    parts = []
                    while size := int(self.rfile.readline().partition(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    while self.rfile.readline().strip():  # trailers
                        pass
                    return b"".join(parts)
                length = int(self.headers.get("Content-Length") or 0)
                return self.rfile.read(length) if length else None

            def _refuse(self, fault: Fault) -> None:
                text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code></Error>".encode()
                self.send_response(fault.status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            def _forward(self, fault: Fault, body: bytes | None) -> None:
                upstream = HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
                left_out = {"connection", "transfer-encoding", "content-length", "expect"}
                left_out |= {"range"} if fault.whole else set()
                kept = {k: v for k, v in self.headers.items() if k.lower() not in left_out}
                upstream.request(self.command, self.path, body, kept)
                answer = upstream.getresponse()
                data = answer.read()
                upstream.close()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP_BY_HOP and name.lower() not in ("date", "server"):
                        self.send_header(name, value)
                if fault.flip and data:
                    middle = len(data) // 2
                    data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
                data = data[: len(data) - fault.shorter]
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(data)))
                self.end_headers()
                self._send(fault, data)

            def _send(self, fault: Fault, data: bytes) -> None:
                if fault.trickle_s:
                    step = max(1, len(data) // 64)
                    for start in range(0, len(data), step):
                        self.wfile.write(data[start : start + step])
                        self.wfile.flush()
                        time.sleep(fault.trickle_s)
                    return
                if fault.stall_s:
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    time.sleep(fault.stall_s)
                    data = data[len(data) // 2 :]
                self.wfile.write(data[: int(len(data) * fault.cut_after)])
                self.wfile.flush()
                if fault.cut_after < 1.0:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler
