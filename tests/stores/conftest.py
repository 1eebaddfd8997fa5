"""A store that speaks S3 in a process of its own, and a proxy before it that can misbehave.

The server is moto's: it comes from PyPI like all else that tests need and starts in seconds, where
Swift and Ceph want a Debian host, several daemons and a minute. What it does not do, such as check
signatures or be slow and wrong, the proxy does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pyarrow import fs as pafs

from distgen.core import stores
from distgen.core.ports import free_port
from distgen.core.retry import Patience
from tests.stores.proxy import FaultProxy
from tests.unit.data.conftest import Made, make_set

BUCKET = "pictures"


@dataclass(frozen=True)
class Store:
    """A running S3 server on loopback."""

    port: int

    def url(self, path: str, port: int | None = None) -> str:
        """The URL of something in the bucket, by way of the server or of a proxy."""
        options = f"endpoint_override=127.0.0.1:{port or self.port}&scheme=http&region=us-east-1"
        return f"s3://{BUCKET}/{path}?{options}"

    def upload(self, folder: Path, path: str) -> None:
        """Copy a folder of files into the bucket."""
        store = self.filesystem()
        for file in folder.iterdir():
            with store.open_output_stream(f"{BUCKET}/{path}/{file.name}") as stream:
                stream.write(file.read_bytes())

    def filesystem(self) -> pafs.S3FileSystem:
        """The server as pyarrow sees it."""
        return pafs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """An S3 server with an empty bucket."""
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "of-the-tests")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        running = Store(port)
        wait_for_server(f"http://127.0.0.1:{port}/moto-api/", server)
        running.filesystem().create_dir(BUCKET)
        yield running
    finally:
        server.terminate()
        server.wait(10)
        patch.undo()


def wait_for_server(url: str, server: subprocess.Popen[bytes]) -> None:
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def proxy(store: Store) -> Iterator[FaultProxy]:
    """A proxy before the store that behaves until it is told not to."""
    with FaultProxy(store.port) as running:
        yield running


@pytest.fixture
def uploaded(store: Store, proxy: FaultProxy, tmp_path: Path) -> Callable[[str], tuple[Made, str]]:
    """Makes a set of 50 samples, uploads it, and says where it is behind the proxy."""

    def upload(path: str) -> tuple[Made, str]:
        made = make_set(tmp_path / "made", (20, 3, 27), side=16)
        store.upload(made.folder, path)
        return made, store.url(path, proxy.port)

    return upload


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives stores seconds where users give them minutes."""
    patience = Patience(deadline_s=8.0, attempt_s=0.3, first_pause_s=0.05, longest_pause_s=0.2)
    monkeypatch.setattr(stores, "PATIENCE", patience)


@pytest.fixture
def out_of_patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Leaves stores a second from now on, for faults that stay: all of it is waited for."""
    patience = Patience(deadline_s=1.0, attempt_s=0.3, first_pause_s=0.05, longest_pause_s=0.2)
    return lambda: monkeypatch.setattr(stores, "PATIENCE", patience)
