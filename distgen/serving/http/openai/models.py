"""What is said of the models that are served."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from distgen.serving.http.errors import documented
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.shelf import Described, Shelf


def add_routes(app: FastAPI, shelf: Shelf) -> None:
    """Add `GET /v1/models` and `GET /v1/models/{id}`."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that are served here; the first is what a request gets that names none."""
        names = [info.name for info in shelf.models()]
        return {"object": "list", "data": [described_body(shelf.describe(n)) for n in names]}

    @app.get("/v1/models/{name:path}", responses=documented(404))
    async def model(name: str) -> dict[str, Any]:
        """What is known of one model: its family, size, classes and quality."""
        return described_body(shelf.describe(name))


def described_body(described: Described) -> dict[str, Any]:
    """A model's object, with what is going on around it."""
    body = model_body(described.info) | {
        "names": list(described.names),
        "loaded": described.loaded,
    }
    if described.trial is not None:
        trial = {"version": described.trial.version, "digest": described.trial.digest}
        body["canary"] = {**trial, "share": described.share}
    if described.problem:
        body["problem"] = described.problem
    return body


def model_body(info: ModelInfo) -> dict[str, Any]:
    """The object that `GET /v1/models/{id}` answers with."""
    moving: dict[str, int] = {} if info.spec.frames is None else {"frames": info.spec.frames}
    return {
        "id": info.name,
        "object": "model",
        "created": info.created,
        "owned_by": "distgen",
        "family": info.family,
        **({} if info.version is None else {"version": info.version}),
        "digest": info.digest,
        "size": info.size,
        "mode": info.spec.mode,
        **moving,
        "classes": list(info.classes),
        "latent_dim": info.latent_dim,
        "leading_latents": list(info.leading_latents),
        "capabilities": list(info.capabilities),
        "card": info.card,
    }
