"""Which metrics queries ask for, and which of them exist."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import ray

import distgen
from distgen.launch.monitoring import METRICS

_WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_HISTOGRAM_SERIES = re.compile(r"^(ray_distgen_\w+)_(?:bucket|sum|count)$")
"""Of ours; Ray's are known by their stems, too."""
_FUNCTIONS = {
    "clamp_min", "histogram_quantile", "last_over_time", "max", "rate", "sum", "time", "count",
    "label_replace", "avg", "min", "label_values", "delta",
}  # fmt: skip
_OPERATORS = {"by", "on", "or", "unless", "offset", "without", "and", "ignoring"}


def used_in(query: str) -> set[str]:
    """The metrics that a PromQL expression asks for."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}", "", bare)  # matchers
    bare = re.sub(r"\[[^]]*\]", "", bare)  # ranges
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", bare)  # labels
    bare = re.sub(r"\boffset\s+\w+", "", bare)
    words = {word for word in _WORDS.findall(bare) if not re.fullmatch(r"e\d+|x", word)}
    return {_HISTOGRAM_SERIES.sub(r"\1", word) for word in words - _FUNCTIONS - _OPERATORS}


def unknown_events(queries: Iterable[str]) -> set[str]:
    """Events that queries ask for and no code of ours tells."""
    code = "\n".join(path.read_text() for path in Path(distgen.__file__).parent.rglob("*.py"))
    asked = {
        event
        for query in queries
        for events in re.findall(r'event=~?"([^"]+)"', query)
        for event in events.split("|")
    }
    assert asked, "none of them asks for an event"
    return {event for event in asked if f'"{event}"' not in code}


def of_ours() -> set[str]:
    """What distgen exports, as queries name it."""
    return {metric.exported for metric in METRICS}


@functools.cache
def defined_by_ray(name: str) -> bool:
    """Whether the installed Ray has a metric of this name, or shows it on its dashboards."""
    stem = re.sub(r"_(bucket|count|sum)$", "", name).removeprefix("ray_")
    quoted = (f'"{stem}"', f'"{stem.removesuffix("_total")}"')
    shown = re.search(rf"\b{name}\b", _python("dashboard/modules/metrics/dashboards")) is not None
    code = _python("dashboard/modules/reporter") + _python("serve/_private")
    return shown or any(text in code for text in quoted) or _in_binaries(stem)


@functools.cache
def _python(folder: str) -> str:
    files = sorted((Path(ray.__file__).parent / folder).glob("*.py"))
    return "\n".join(file.read_text() for file in files)


def _in_binaries(stem: str) -> bool:
    """Names of metrics lie in Ray's programs as they are."""
    return any(re.search(rb"\0" + stem.encode() + rb"\0", program) for program in _programs())


@functools.cache
def _programs() -> tuple[bytes, ...]:
    folder = Path(ray.__file__).parent / "core" / "src" / "ray"
    return tuple((folder / part).read_bytes() for part in ("gcs/gcs_server", "raylet/raylet"))
