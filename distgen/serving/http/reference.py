"""The documentation of an API as one page of HTML, made from its OpenAPI document."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
Schema = Mapping[str, Any]

_CODE, _AS_CODE = re.compile(r"`([^`]+)`"), r"<code>\1</code>"


@dataclass(frozen=True)
class Field:
    """One thing that a request may carry."""

    name: str
    place: str
    """`body`, `path`, `query` or `header`."""
    kind: str
    """What it may be, in words."""
    about: str
    required: bool = False


@dataclass(frozen=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    about: str
    fields: tuple[Field, ...]
    example: str
    """A command that asks for it."""

    @property
    def anchor(self) -> str:
        """Its name within the page."""
        return re.sub(r"\W+", "-", f"{self.method}-{self.path}").strip("-").lower()


def routes_of(document: Schema, url: str) -> list[Route]:
    """The routes of an OpenAPI document in its order, those of an API's version before others.

    Args:
        document: The OpenAPI document.
        url: Where the API answers, for examples.
    """
    paths = document["paths"].items()
    return [
        _route(document, method, path, operation, url)
        for path, methods in sorted(paths, key=lambda item: not re.match(r"/v\d", item[0]))
        for method, operation in methods.items()
        if method in METHODS
    ]


def reference_html(document: Schema, assets: str, url: str) -> str:
    """The page.

    Args:
        document: The OpenAPI document.
        assets: Where the style sheet and the icon are.
        url: Where the API answers, for examples.
    """
    routes = routes_of(document, url)
    title, info = escape(str(document["info"]["title"])), document["info"]
    links = "".join(
        f'<li><a href="#{route.anchor}"><span class="method">{route.method.upper()}</span> '
        f"<code>{_breakable(route.path)}</code></a></li>"
        for route in routes
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} API</title>
<link rel="icon" href="{assets}/icon.svg">
<link rel="stylesheet" href="{assets}/style.css">
</head>
<body>
<a class="skip" href="#routes">Skip to the routes</a>
<header class="top"><a class="name" href="./">{title}</a>
<nav aria-label="Pages"><a href="./">Playground</a>
<a href="docs" aria-current="page">API</a></nav></header>
<div class="reference">
<nav class="contents" aria-label="Routes"><ul>{links}</ul></nav>
<main id="routes" tabindex="-1">
<h1>API</h1>
<p class="lead">{escape(str(info.get("summary", "")))} Errors are always
<code>{{"error": {{"message", "type", "param", "code"}}}}</code>. The same as data:
<a href="openapi.json">openapi.json</a>.</p>
{"".join(map(_section, routes))}
</main>
</div>
</body>
</html>
"""


def _section(route: Route) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(field.name)}</code>'
        f"<small>{escape(field.place)}{', required' if field.required else ''}</small></th>"
        f"<td><span class='kind'>{escape(field.kind)}</span>{_prose(field.about)}</td></tr>"
        for field in route.fields
    )
    table = (
        f"<table><caption>Fields</caption><thead><tr><th scope='col'>Name</th>"
        f"<th scope='col'>Meaning</th></tr></thead><tbody>{rows}</tbody></table>"
        if rows
        else ""
    )
    return f"""<section id="{route.anchor}" aria-labelledby="{route.anchor}-title">
<h2 id="{route.anchor}-title"><span class="method">{route.method.upper()}</span>
<code>{_breakable(route.path)}</code></h2>
{_prose(route.about)}
{table}
<pre tabindex="0" aria-label="Example"><code>{escape(route.example)}</code></pre>
</section>
"""


def _route(document: Schema, method: str, path: str, operation: Schema, url: str) -> Route:
    path = re.sub(r"\{(\w+):path\}", r"{\1}", path)
    fields = [
        Field(
            item["name"],
            item["in"],
            _kind(document, item.get("schema", {}), item.get("schema", {})),
            item.get("description", ""),
            bool(item.get("required")),
        )
        for item in operation.get("parameters", ())
    ]
    content: Schema = operation.get("requestBody", {}).get("content", {})
    for media in list(content.values())[:1]:
        fields += _fields(document, media.get("schema", {}))
    about = operation.get("description") or operation.get("summary", "")
    example = _example(method, f"{url}{path}", content, fields)
    return Route(method, path, about, tuple(fields), example)


def _fields(document: Schema, schema: Schema) -> Iterator[Field]:
    whole = _resolved(document, schema, schema)
    required = whole.get("required", ())
    for name, item in whole.get("properties", {}).items():
        kind = _kind(document, schema, item)
        if kind != "null":  # there only to be accepted from clients that always send it
            about = _resolved(document, schema, item).get("description", "")
            yield Field(name, "body", kind, item.get("description", about), name in required)


def _kind(document: Schema, root: Schema, schema: Schema) -> str:
    """What a value may be, in words."""
    found = _resolved(document, root, schema)
    choices = found.get("anyOf") or found.get("oneOf") or ()
    if choices:
        kinds = [_kind(document, root, choice) for choice in choices]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null")) or "null"
    if "const" in found:
        return json.dumps(found["const"])
    if "enum" in found:
        return " or ".join(json.dumps(choice) for choice in found["enum"])
    if found.get("type") == "array":
        most = f", at most {found['maxItems']}" if "maxItems" in found else ""
        return f"list of {_kind(document, root, found.get('items', {}))}{most}"
    if found.get("format") == "binary" or "contentMediaType" in found:
        return "file"
    names = {"integer": "whole number", "boolean": "true or false", "string": "text"}
    kind = names.get(found.get("type", ""), str(found.get("type", "anything")))
    low, high = found.get("minimum"), found.get("maximum")
    if low is not None and high is not None:
        return f"{kind} from {_number(low)} to {_number(high)}"
    return kind


def _number(value: float) -> str:
    """A limit as one reads it; documents hold some whole numbers as 256.0."""
    if value >= 2**53:
        return f"2^{math.log2(value):.0f}" + (" - 1" if isinstance(value, int) else "")
    return f"{value:g}"


def _resolved(document: Schema, root: Schema, schema: Schema) -> Schema:
    """What a `$ref` means: within the document, or within the schema that it stands in."""
    if "$ref" not in schema:
        return schema
    parts = str(schema["$ref"]).removeprefix("#/").split("/")
    for place in (root, document):
        found: Any = place
        for part in parts:
            found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):
            return found
    return {}


def _example(method: str, url: str, content: Schema, fields: list[Field]) -> str:
    words = ["curl", shlex.quote(re.sub(r"\{(\w+)\}", lambda m: m[1].upper(), url))]
    if method not in ("get", "post") or (method == "post" and not content):
        words[1:1] = ["-X", method.upper()]
    if "multipart/form-data" in content:
        files = [field for field in fields if field.kind.startswith("file")]
        words += [f"\\\n  -F {field.name}=@{field.name}.png" for field in files if field.required]
    elif content:
        media, first = next(iter(content.items()))
        body = first.get("example", {}) if isinstance(first, Mapping) else {}
        text = json.dumps(body, ensure_ascii=False)
        words.append(f"\\\n  -H {shlex.quote(f'Content-Type: {media}')}")
        words.append(f"\\\n  -d {shlex.quote(text)}")
    return " ".join(words)


def _prose(text: str) -> str:
    """Paragraphs, with what stands in backticks as code."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "".join(f"<p>{_CODE.sub(_AS_CODE, escape(part))}</p>" for part in paragraphs if part)


def _breakable(path: str) -> str:
    return escape(path).replace("/", "/<wbr>")
