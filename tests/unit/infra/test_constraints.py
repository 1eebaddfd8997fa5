"""Every package that distgen asks for is pinned, at a version that pyproject.toml allows."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOREIGN = {"torchvision"}
"""What must not be installed (design: it has no build beside the CPU build of torch)."""


def lines() -> list[str]:
    text = (ROOT / "infra" / "constraints.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


def pins() -> dict[str, Version]:
    """Versions by normalised name."""
    found = [line.partition("==") for line in lines()]
    return {canonicalize_name(name): Version(version) for name, _, version in found}


def asked_for() -> list[Requirement]:
    """All that pyproject.toml names, extras and the build among it."""
    project = PROJECT["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    build = PROJECT["build-system"]["requires"]
    return [Requirement(text) for text in (*project["dependencies"], *extras, *build)]


@pytest.mark.parametrize("requirement", asked_for(), ids=str)
def test_what_the_project_asks_for_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"infra/constraints.txt has no {requirement.name}"
    assert requirement.specifier.contains(version)


def test_each_line_pins_one_package_in_order_and_once() -> None:
    for line in lines():
        requirement = Requirement(line)
        assert [part.operator for part in requirement.specifier] == ["=="], line
        assert not requirement.marker
        assert "+" not in line, "a local version is for one device only"
    assert len(pins()) == len(lines())
    assert lines() == sorted(lines(), key=str.lower)
    assert not pins().keys() & FOREIGN


@functools.cache
def needed() -> frozenset[str]:
    """Names of all that the project brings with it, as far as it is installed here."""
    return frozenset(walk(asked_for()))


def walk(requirements: list[Requirement]) -> Iterator[str]:
    environment = default_environment()
    seen: set[tuple[str, str]] = set()
    todo = [(one, extra) for one in requirements for extra in ("", *one.extras)]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        yield name
        try:
            texts = distribution(requirement.name).requires or []
        except PackageNotFoundError:
            continue
        for further in map(Requirement, texts):
            here = {**environment, "extra": extra}
            if further.marker is None or further.marker.evaluate(here):
                todo += [(further, each) for each in ("", *further.extras)]


def test_what_these_packages_bring_along_is_pinned_too() -> None:
    names = needed()
    assert len(names) > len(asked_for()) + 50, "the walk goes beyond the first step"
    assert not {name for name in names if name not in pins()}


def test_what_is_installed_here_is_what_is_pinned() -> None:
    for name in needed():
        try:
            installed = Version(distribution(name).version)
        except PackageNotFoundError:
            continue
        assert installed.public == pins()[name].public, name
