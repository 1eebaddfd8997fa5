"""One request from its first byte to its last: its name, its deadline, and how it ended."""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from starlette.types import Scope

from distgen.core.ports import is_loopback
from distgen.serving.http.errors import RequestError, shorten
from distgen.serving.making.account import Account

ID_HEADER = "x-request-id"
TIMEOUT_HEADER = "x-request-timeout"
START_HEADER = "x-request-start"
"""By which a proxy says when it had the request, as `t=` and milliseconds since 1970."""
HUNG_UP = 499
"""The status, of nginx's making, of requests whose client did not wait for the answer."""

ID_PATTERN = "[A-Za-z0-9_.:/+=@-]{1,128}"
"""Of a client's own id; others are replaced."""
_ID = re.compile(ID_PATTERN)
_is_near = lru_cache(maxsize=64)(is_loopback)
_LONGEST_PATH = 200
_LONGEST_WAIT_S = 600.0
"""No request waits longer: the clock was set, or a proxy means another unit."""


@dataclass(eq=False, slots=True)
class Visit:
    """What an endpoint says of a request. Never what was in it: no body, key or query string."""

    request_id: str
    """The client's own, or one that was made here."""
    method: str
    path: str
    started: float
    """`time.monotonic()` when it came to this machine, proxy included."""
    account: Account
    """What was made for it."""
    route: str = "other"
    """The path's pattern; `other` for paths that do not exist."""
    status: int = 0
    """Of the answer; `HUNG_UP` where the client did not wait for it."""
    sent_bytes: int = 0
    """Of the answer's body."""
    reason: str = ""
    """The error's code; empty where there was none."""
    seconds: float = 0.0
    """From its start to the answer's last byte."""

    def server_timing(self) -> bytes:
        """The header's value, in milliseconds."""
        account = self.account
        return (
            f"queue;dur={account.queue_s * 1e3:.2f}, forward;dur={account.forward_s * 1e3:.2f}, "
            f"encode;dur={account.encode_s * 1e3:.2f}"
        ).encode()

    def line(self) -> str:
        """The access log's line: one JSON object."""
        account = self.account
        row: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "bytes": self.sent_bytes,
            "ms": round(self.seconds * 1e3, 2),
        }
        if self.reason:
            row["reason"] = self.reason
        if account.model:
            row |= {"model": account.model, "digest": account.digest[:12]}
        if account.pictures:
            row |= {
                "pictures": account.pictures,
                "queue_ms": round(account.queue_s * 1e3, 2),
                "forward_ms": round(account.forward_s * 1e3, 2),
                "encode_ms": round(account.encode_s * 1e3, 2),
            }
        return json.dumps(row, separators=(",", ":"))


def begin(scope: Scope, headers: dict[bytes, bytes]) -> Visit:
    """The visit that begins with a request.

    Args:
        scope: Of ASGI, of type `http`.
        headers: Its headers.
    """
    return Visit(
        request_id=request_id(headers.get(ID_HEADER.encode(), b"").decode("latin-1")),
        method=shorten(scope["method"]),
        path=scope["path"][:_LONGEST_PATH],
        started=time.monotonic() - waited_s(scope, headers),
        account=Account(),
    )


def waited_s(scope: Scope, headers: dict[bytes, bytes]) -> float:
    """Seconds since a proxy on this machine has had the request; 0 where none says so.

    Under overload a request waits before it is read here, and its client waits with it. The clock
    of another machine may differ from this one's by more than any deadline, so it is not asked.
    """
    said = headers.get(START_HEADER.encode())
    client = scope.get("client")
    if said is None or client is None or not _is_near(client[0]):
        return 0.0
    try:
        waited = time.time() - float(said.removeprefix(b"t=")) / 1e3
    except ValueError:
        return 0.0
    return waited if 0.0 < waited < _LONGEST_WAIT_S else 0.0


def request_id(given: str) -> str:
    """The client's id where it is short and plain, else a new one."""
    return given if _ID.fullmatch(given) else secrets.token_hex(16)


def timeout_of(headers: dict[bytes, bytes], default_s: float, longest_s: float) -> float:
    """Seconds after which nobody waits for the answer any more.

    Args:
        headers: Of the request; `x-request-timeout` says how many.
        default_s: Where it says nothing.
        longest_s: More is as much as this.

    Raises:
        RequestError: It is not a number of seconds.
    """
    given = headers.get(TIMEOUT_HEADER.encode())
    if given is None:
        return default_s
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise RequestError(
            f"{TIMEOUT_HEADER} cannot be {shorten(given.decode('latin-1'))!r}. "
            "Give a number of seconds above 0, or leave the header out.",
            param=TIMEOUT_HEADER,
        )
    return min(seconds, longest_s)
