"""promtool on our rules; it comes with Debian's package `prometheus`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PROMETHEUS = Path(__file__).parents[3] / "infra" / "prometheus"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


def groups(file: str) -> list[dict[str, Any]]:
    """The rule groups of one of our files."""
    return yaml.safe_load((PROMETHEUS / "rules" / file).read_text())["groups"]


def alerts() -> list[dict[str, Any]]:
    """All alerts."""
    return [rule for group in groups("alerts.yml") for rule in group["rules"]]


def records() -> list[dict[str, Any]]:
    """All recorded expressions."""
    return [rule for group in groups("recording.yml") for rule in group["rules"]]


def promtool(*arguments: str | Path) -> str:
    """What promtool says; it must be content."""
    command = ["promtool", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
