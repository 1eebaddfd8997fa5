from __future__ import annotations

from pathlib import Path

import pytest

from distgen.core import software
from distgen.core.software import SOURCES, same_software, versions

HERE = {
    "Python": "3.11.7",
    "distgen": "0.1.0",
    "torch": "2.13.0+cpu",
    "ray": "2.60.0",
    SOURCES: "a",
}


def test_versions_are_those_of_what_ranks_share_work_through() -> None:
    found = versions()
    assert list(found) == list(HERE)
    assert "not installed" not in found.values()
    assert same_software(found, found).verdict == "ok"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "ok"),
        ({"torch": "2.13.0+cu128"}, "ok"),  # nodes may have different devices
        ({"torch": "2.12.0+cpu"}, "problem"),
        ({"ray": "2.59.0"}, "problem"),
        ({"Python": "3.11.9"}, "problem"),  # Ray itself refuses it
        ({"distgen": "0.2.0", SOURCES: "b"}, "problem"),
        ({SOURCES: "b"}, "warning"),
    ],
)
def test_nodes_with_other_software_are_told_apart(change: dict[str, str], verdict: str) -> None:
    found = same_software({**HERE, **change}, HERE)
    assert found.verdict == verdict
    if verdict == "problem":
        (name,) = [name for name in change if name != SOURCES]
        assert f"the machine that asks has {name} {HERE[name]}" in found.text


def test_digest_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("1")
    first = software._digest(tmp_path)
    assert software._digest(tmp_path) == first
    (tmp_path / "room" / "a.py").write_text("2")
    second = software._digest(tmp_path)
    (tmp_path / "room" / "a.py").rename(tmp_path / "room" / "b.py")
    assert len({first, second, software._digest(tmp_path)}) == 3
