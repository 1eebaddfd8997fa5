"""Versions that must be the same on all nodes of a cluster."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from distgen.core.finding import Finding, ok, problem, warning

PACKAGES = ("distgen", "torch", "ray")
SOURCES = "distgen's files"
_ABSENT = "not installed"


def versions() -> dict[str, str]:
    """Of Python, of the packages that ranks share work through, and a digest of our own files."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = _ABSENT
    return {**found, SOURCES: _digest(Path(__file__).parent.parent)}


def same_software(here: Mapping[str, str], there: Mapping[str, str]) -> Finding:
    """Whether a node can work with others.

    Args:
        here: Its versions.
        there: Those of the machine that asks.
    """
    wrong = [name for name in there if _differ(name, here.get(name, _ABSENT), there[name])]
    seen = ", ".join(f"{name} {value}" for name, value in here.items() if name != SOURCES)
    if not wrong:
        return ok("software", seen)
    if wrong == [SOURCES]:
        return warning(
            "software",
            f"{seen}, but its files are not those of the machine that asks",
            "install the same commit of distgen on all nodes",
        )
    listed = ", ".join(f"{name} {there[name]}" for name in wrong if name != SOURCES)
    return problem(
        "software",
        f"{seen}; the machine that asks has {listed}",
        "install the same versions on all nodes: infra/constraints.txt",
    )


def _differ(name: str, here: str, there: str) -> bool:
    # What follows the plus says what torch was built for, and nodes may have different devices.
    return here != there if name != "torch" else here.split("+")[0] != there.split("+")[0]


def _digest(folder: Path) -> str:
    """Of all Python files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
