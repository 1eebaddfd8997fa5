"""An attacker's payloads, and a watch that nothing came of them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Attack:
    """What an attacker would send, and where one may work with it.

    Each payload, run, makes the folder `canary`, which a test must not leave behind.
    """

    inside: Path
    """Where the test puts what the attacker made."""
    outside: Path
    """A folder beside it that nobody has any business in."""
    canary: Path

    @property
    def pickled(self) -> bytes:
        """Bytes that make the canary when they are unpickled."""
        return pickle.dumps(_Payload(str(self.canary)))

    @property
    def yaml_call(self) -> str:
        """A YAML value that makes the canary when a loader obeys its tag."""
        return f"!!python/object/apply:os.mkdir ['{self.canary}']"

    @property
    def shell(self) -> str:
        """A command that makes the canary."""
        return f"mkdir {self.canary}"


class _Payload:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Attack]:
    """Payloads; after the test the canary is absent and the folders around are untouched."""
    attack = Attack(tmp_path / "inside", tmp_path / "outside", tmp_path / "canary")
    attack.inside.mkdir()
    attack.outside.mkdir()
    secret = attack.outside / "secret"
    secret.write_text("not yours")
    yield attack
    assert not attack.canary.exists(), "a payload was executed"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inside", "outside"]
    assert [p.name for p in attack.outside.iterdir()] == ["secret"], "something was written outside"
    assert secret.read_text() == "not yours"


@pytest.fixture
def deep_json() -> bytes:
    """JSON of so many levels that a reader without a limit runs out of stack."""
    return b"[" * 20_000 + b"]" * 20_000
