"""What uvicorn keeps of connections that were reset, and how it is told not to."""

from __future__ import annotations

from functools import wraps
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def forget_reset_connections() -> None:
    """Let uvicorn, in all of this process, stop the timer of each connection that is lost.

    After an answer it starts one, which ends the connection where nothing more is asked in time.
    When the other side closes, the timer is stopped; when it resets, as HAProxy does with those it
    has had no use for, uvicorn 0.54 lets it run, and with it stay the connection and all that its
    last request held: for 90 s under Ray Serve, and thousands of them under load.
    """
    for protocol in (H11Protocol, HttpToolsProtocol):
        lost: Any = protocol.connection_lost
        if not hasattr(lost, "__wrapped__"):
            protocol.connection_lost = _stopping_the_timer(lost)  # type: ignore[method-assign]


def _stopping_the_timer(lost: Any) -> Any:
    @wraps(lost)
    def connection_lost(self: Any, exc: Exception | None) -> None:
        lost(self, exc)
        self._unset_keepalive_if_required()

    return connection_lost
