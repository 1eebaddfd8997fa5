"""The command line in this process: the same `main`, without the start of an interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from distgen.cli.main import main


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


Distgen = Callable[..., Result]


@pytest.fixture
def distgen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Distgen:
    """What a command prints, and the code that it ends with."""
    for name in ("DISTGEN_DEBUG", "RAY_USAGE_STATS_ENABLED"):  # `main` sets them
        monkeypatch.setenv(name, "0")
    for name in ("HOME", "XDG_STATE_HOME"):  # nothing of the user's is touched
        monkeypatch.setenv(name, str(tmp_path / "home"))

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["distgen", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *capsys.readouterr())

    return run
