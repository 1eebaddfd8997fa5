"""What a browser gets: the playground at `/` and the documentation at `/docs`.

Both are files of this package; nothing is loaded from elsewhere, and the browser is told to allow
nothing else. Files are named by the digest of all of them, so that they may be kept for ever and a
new version is seen at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from importlib import resources

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from distgen.serving.http.reference import reference_html

FOLDER = "playground"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SAFE = {
    # Pictures arrive inside answers: `blob:` shows them, `data:` is how some answers carry them.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
FOR_EVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
"""Kept, but shown only after asking whether it is still the newest."""


def add_routes(app: FastAPI) -> None:
    """Add `GET /`, `GET /docs` and the files of both."""
    files = read_files()
    digest = digest_of(files)
    assets = f"{FOLDER}/{digest}"

    @app.get("/", include_in_schema=False)
    async def playground(request: Request) -> Response:
        """The playground."""
        return _page(request, files["index.html"].replace(b"{{assets}}", assets.encode()))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        """The documentation of every route."""
        url = str(request.base_url).rstrip("/")
        return _page(request, reference_html(app.openapi(), assets, url).encode())

    @app.get(f"/{FOLDER}/{{version}}/{{name}}", include_in_schema=False)
    async def file(version: str, name: str) -> Response:
        """A file of the pages."""
        if name not in files:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        # While an endpoint is renewed, a page may ask the other version for its files.
        lasting = FOR_EVER if version == digest else "no-store"
        kind = KINDS[name[name.rindex(".") :]]
        return Response(files[name], media_type=kind, headers={**SAFE, "cache-control": lasting})


def read_files() -> dict[str, bytes]:
    """The pages' files by name."""
    folder = resources.files("distgen.serving.http").joinpath(FOLDER)
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name.endswith(tuple(KINDS))
    }


def digest_of(files: Mapping[str, bytes]) -> str:
    """One short digest of all files and their names."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return whole.hexdigest()[:16]


def _page(request: Request, content: bytes) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**SAFE, "cache-control": ASK_AGAIN, "etag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, media_type=KINDS[".html"], headers=headers)
