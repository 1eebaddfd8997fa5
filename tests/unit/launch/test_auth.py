from __future__ import annotations

from pathlib import Path

import pytest

from distgen.core.errors import UsageError
from distgen.launch import auth


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (auth.TOKEN, auth.TOKEN_PATH, auth.AUTH_MODE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_token_is_made_for_its_owner_only_whatever_the_umask(home: Path) -> None:
    import os

    before = os.umask(0)
    try:
        auth.ensure_token()
    finally:
        os.umask(before)
    path = home / ".ray" / "auth_token"
    assert mode_of(path) == 0o600
    assert len(path.read_text()) == 64


def test_existing_token_is_kept_and_its_mode_tightened(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("a" * 64)
    path.chmod(0o644)
    auth.ensure_token()
    assert auth.read_token() == "a" * 64
    assert mode_of(path) == 0o600


def test_token_of_the_environment_needs_no_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(auth.TOKEN, "b" * 64)
    auth.ensure_token()
    assert auth.read_token() == "b" * 64
    assert not (home / ".ray").exists()


def test_named_token_file_that_is_missing_is_not_made_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(auth.TOKEN_PATH, str(home / "token"))
    with pytest.raises(UsageError, match="copy the token file"):
        auth.ensure_token()
    assert not (home / "token").exists()


def test_empty_token_file_is_refused(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(UsageError, match="empty"):
        auth.ensure_token()


def test_token_is_looked_at_without_being_changed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / ".ray" / "auth_token"
    assert auth.look_at_token().verdict == "ok"
    assert not path.exists()
    path.parent.mkdir()
    path.touch(mode=0o600)
    assert "is empty" in auth.look_at_token().text
    path.write_text("a" * 64)
    assert auth.look_at_token().verdict == "ok"
    path.chmod(0o640)
    found = auth.look_at_token()
    assert (found.verdict, found.remedy) == ("problem", f"chmod 600 {path}")
    assert "has mode 0640" in found.text
    assert mode_of(path) == 0o640
    monkeypatch.setenv(auth.TOKEN_PATH, str(home / "elsewhere"))
    assert "which RAY_AUTH_TOKEN_PATH names, is not there" in auth.look_at_token().text
    monkeypatch.setenv(auth.TOKEN, "b" * 64)
    assert auth.look_at_token().verdict == "ok"
