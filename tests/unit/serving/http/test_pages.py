"""The pages for browsers: complete in themselves, cached by digest, closed to all else."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from distgen.serving.http import pages
from distgen.serving.http.app import create_app
from distgen.serving.http.reference import routes_of
from distgen.serving.making.shelf import Shelf


def get(engine: Any, *paths: str, **headers: str) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(Shelf([engine])), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = [await client.get(path, headers=headers) for path in paths]
        await engine.close()
        return answers

    return asyncio.run(run())


class Links(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]
        self.ids += [value for name, value in attrs if name == "id" and value]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere_and_allow_nothing_else(make_engine, path):
    (page,) = get(make_engine(), path)
    assert page.status_code == 200
    assert not [link for link in Links(page.text).found if re.match(r"(\w+:)?//", link)]
    assert not re.search(r"\son\w+=|<style|style=|<script>", page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_ids_of_a_page_are_its_own(make_engine, path):
    (page,) = get(make_engine(), path)
    ids = Links(page.text).ids
    assert len(ids) == len(set(ids))


def test_files_may_be_kept_for_ever_and_pages_until_they_change(make_engine):
    engine = make_engine()
    (page,) = get(engine, "/")
    (link,) = [link for link in Links(page.text).found if link.endswith("main.js")]
    again, script, old, none = get(
        make_engine(),
        "/",
        f"/{link}",
        "/playground/0123456789abcdef/main.js",
        "/playground/0123456789abcdef/..%2Fapp.py",
        **{"if-none-match": page.headers["etag"]},
    )
    assert (page.headers["cache-control"], again.status_code) == ("no-cache", 304)
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert script.headers["content-type"].startswith("text/javascript")
    assert old.content == script.content  # of another version, so not to be kept
    assert old.headers["cache-control"] == "no-store"
    assert none.status_code == 404


def test_every_module_is_there_and_no_other_is_asked_for():
    files = pages.read_files()
    imported = {
        name
        for source, text in files.items()
        if source.endswith(".js")
        for name in re.findall(r'from "\./([\w.]+)"', text.decode())
    }
    assert imported | {"main.js"} == {name for name in files if name.endswith(".js")}


def test_digest_changes_with_any_file():
    files = {"a.js": b"1", "b.css": b"2"}
    digests = {
        pages.digest_of(changed)
        for changed in (files, {**files, "a.js": b"2"}, {"c.js": b"1", "b.css": b"2"}, {})
    }
    assert len(digests) == 4


def document_of(engine: Any) -> dict[str, Any]:
    (answer,) = get(engine, "/openapi.json")
    document: dict[str, Any] = answer.json()
    return document


def test_every_route_says_what_it_does_and_every_field_what_it_means(make_engine):
    document = document_of(make_engine())
    silent = [
        f"{method} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if not operation.get("description")
    ]
    assert silent == []
    for route in routes_of(document, "http://test"):
        own = [field for field in route.fields if field.place == "query"]
        assert all(field.about for field in own), route


def test_reference_shows_every_route_with_its_fields_and_a_command(make_engine):
    engine = make_engine()
    document = document_of(engine)
    (page,) = get(make_engine(), "/docs")
    links = Links(page.text)
    for route in routes_of(document, "http://test"):
        assert f"#{route.anchor}" in links.found
        assert route.anchor in links.ids
        assert route.example.startswith("curl ")
    assert "whole number from 1 to 256" in page.text
    assert "whole number from 0 to 2^63" in page.text
    assert "-F image=@image.png" in page.text


def test_what_a_route_is_called_is_only_text():
    app = FastAPI(docs_url=None)

    @app.get("/odd/{name}", description="<script>alert(1)</script>\n\n`<b>`")
    def odd(name: str) -> None: ...

    pages.add_routes(app)

    async def run() -> str:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://<i>") as client:
            return (await client.get("/docs", headers={"host": '"><script>'})).text

    text = asyncio.run(run())
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<code>&lt;b&gt;</code>" in text
