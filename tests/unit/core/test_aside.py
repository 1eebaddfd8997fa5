from __future__ import annotations

from pathlib import Path

import pytest

from distgen.core.aside import run_aside
from distgen.core.errors import DistgenError


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that only this process's path knows, as in a worker of Ray."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "told.py"


def test_answer_comes_back(module: Path) -> None:
    module.write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    assert run_aside("told", "a", "b", timeout_s=30) == ["a", "b"]


def test_failure_is_told_by_its_last_line(module: Path) -> None:
    module.write_text("raise ValueError('no such thing')")
    with pytest.raises(DistgenError, match="ValueError: no such thing"):
        run_aside("told", timeout_s=30)


def test_what_hangs_is_ended(module: Path) -> None:
    module.write_text("import time; time.sleep(600)")
    with pytest.raises(DistgenError, match=r"no answer within 0\.2 s"):
        run_aside("told", timeout_s=0.2)
