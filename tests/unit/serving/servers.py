"""A real HTTP server in this process, for clients that want one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from distgen.core.ports import free_port


@contextmanager
def listening(app: ASGIApp, **options: Any) -> Iterator[str]:
    """The address of a server of `app`, for as long as the block lasts.

    Args:
        app: The application.
        options: Further options of uvicorn.
    """
    config = uvicorn.Config(app, port=free_port(), log_level="error", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{server.config.port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The same as a URL."""
    with listening(app) as place:
        yield f"http://{place}"
