"""A store that speaks S3, and a proxy before it that can misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distgen.core import stores
from distgen.core.retry import Patience
from tests.stores.proxy import FaultProxy
from tests.stores.server import Store, serving
from tests.unit.data.conftest import Made, make_set


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """An S3 server with an empty bucket."""
    with serving() as running:
        yield running


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
