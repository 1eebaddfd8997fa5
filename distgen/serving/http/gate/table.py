"""What each path of the endpoint needs: the one place where a path is opened."""

from __future__ import annotations

import re
from typing import Literal

from distgen.serving.http.gate.keyfile import Scope

Need = Literal["open"] | Scope

# As routes name them: {x} is one part of a path, {x:path} all the rest.
_TABLE: dict[Need, tuple[str, ...]] = {
    "open": (
        "/",
        "/livez",
        "/readyz",
        "/playground/{version}/{name}",
        "/docs",
        "/openapi.json",
        "/v2/health/live",
        "/v2/health/ready",
    ),
    "generate": (
        "/v1/models",
        "/v1/models/{name:path}",
        "/v1/models/{name:path}/latents",
        "/v1/images/generations",
        "/v1/images/variations",
        "/v1/images/edits",
        "/v2",
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
        "/v2/models/{name}/infer",
        "/v2/models/{name}/versions/{version}",
        "/v2/models/{name}/versions/{version}/ready",
        "/v2/models/{name}/versions/{version}/infer",
        "/v2/repository/index",
    ),
    "admin": ("/metrics",),
}


def _pattern(template: str) -> str:
    parts = re.split(r"(\{\w+(?::path)?\})", template)
    return "".join(
        re.escape(part) if not part.startswith("{") else ".*" if ":path" in part else "[^/]+"
        for part in parts
    )


_EXACT: dict[str, Need] = {
    template: need
    for need, templates in _TABLE.items()
    for template in templates
    if "{" not in template
}
_PATTERNS: list[tuple[re.Pattern[str], Need]] = [
    (re.compile(_pattern(template), re.DOTALL), need)
    for need, templates in _TABLE.items()
    for template in templates
    if "{" in template
]


def need_of(path: str) -> Need:
    """What a path needs; one that is not in the table is the administrators'."""
    need = _EXACT.get(path)
    if need is not None:
        return need
    return next((need for pattern, need in _PATTERNS if pattern.fullmatch(path)), "admin")


def is_known(template: str) -> bool:
    """Whether the table names a route, by the path that it was added with; what its parts are
    called does not matter.
    """
    return _unnamed(template) in {_unnamed(known) for group in _TABLE.values() for known in group}


def _unnamed(template: str) -> str:
    return re.sub(r"\{\w+", "{", template)
