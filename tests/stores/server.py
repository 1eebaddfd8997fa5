"""A store that speaks S3 in a process of its own.

The server is moto's: it comes from PyPI like all else that tests need and starts in seconds, where
Swift and Ceph want a Debian host, several daemons and a minute. What it does not do, such as check
signatures or be slow and wrong, the proxy does.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pyarrow import fs as pafs

from distgen.core.ports import free_port

BUCKET = "pictures"


@dataclass(frozen=True)
class Store:
    """A running S3 server, on loopback where nothing else is said."""

    port: int
    host: str = "127.0.0.1"

    def url(self, path: str, port: int | None = None) -> str:
        """The URL of something in the bucket, by way of the server or of a proxy."""
        place = f"{self.host}:{port or self.port}"
        return f"s3://{BUCKET}/{path}?endpoint_override={place}&scheme=http&region=us-east-1"

    def upload(self, folder: Path, path: str) -> None:
        """Copy a folder of files, and the folders in it, into the bucket."""
        store = self.filesystem()
        for file in folder.rglob("*"):
            if file.is_file():
                name = file.relative_to(folder).as_posix()
                with store.open_output_stream(f"{BUCKET}/{path}/{name}") as stream:
                    stream.write(file.read_bytes())

    def filesystem(self) -> pafs.S3FileSystem:
        """The server as pyarrow sees it."""
        return pafs.S3FileSystem(
            endpoint_override=f"{self.host}:{self.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )


def end_with_parent() -> None:
    """In a new process: ask the kernel to end it when the one that started it has ended."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Store]:
    """An S3 server with an empty bucket, and credentials for it in the environment."""
    port = free_port(host)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "of-the-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        try:
            running = Store(port, host)
            wait_for_server(f"http://{host}:{port}/moto-api/", server)
            running.filesystem().create_dir(BUCKET)
            yield running
        finally:
            server.terminate()
            server.wait(10)


def wait_for_server(url: str, server: subprocess.Popen[bytes]) -> None:
    """Return when something answers there."""
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
