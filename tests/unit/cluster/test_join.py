"""`cluster/local/join.sh` with a stand-in for Ray that writes down how it was called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.cluster.rendered import ROOT

SCRIPT = ROOT / "cluster" / "local" / "join.sh"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text('#!/bin/bash\necho "$RAY_AUTH_MODE: ray $*"\n')
    ray.chmod(0o700)
    return tmp_path


def join(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def put_token(home: Path, text: str = "secret", mode: int = 0o600) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(text)
    token.chmod(mode)


def test_a_machine_joins_with_its_token(home: Path) -> None:
    put_token(home)
    ended = join(home, "head:6379")
    assert (ended.returncode, ended.stdout) == (0, "token: ray start --block --address head:6379\n")


def test_a_machine_without_the_token_is_told_where_to_get_it(home: Path) -> None:
    ended = join(home, "head:6379")
    assert ended.returncode == 2
    assert f"scp head:.ray/auth_token {home}/.ray/auth_token" in ended.stderr


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_token_that_others_can_read_is_refused(home: Path, mode: int) -> None:
    put_token(home, mode=mode)
    ended = join(home, "head:6379")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "chmod 600" in ended.stderr


def test_an_empty_token_is_none(home: Path) -> None:
    put_token(home, text="")
    assert join(home, "head:6379").returncode == 2


@pytest.mark.parametrize("arguments", [(), ("head:6379", "more")])
def test_the_heads_address_is_all_that_it_takes(home: Path, arguments: tuple[str, ...]) -> None:
    put_token(home)
    ended = join(home, *arguments)
    assert ended.returncode == 2
    assert "usage:" in ended.stderr
