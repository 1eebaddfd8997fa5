"""What is said of the models that are served."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.shelf import Shelf


def add_routes(app: FastAPI, shelf: Shelf) -> None:
    """Add `GET /v1/models` and `GET /v1/models/{id}`."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that are served here; the first is what a request gets that names none."""
        return {"object": "list", "data": [model_body(info) for info in shelf.models()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """What is known of one model: its family, size, classes and quality."""
        async with shelf.lend(name) as engine:
            return model_body(engine.info)


def model_body(info: ModelInfo) -> dict[str, Any]:
    """The object that `GET /v1/models/{id}` answers with."""
    moving: dict[str, int] = {} if info.spec.frames is None else {"frames": info.spec.frames}
    return {
        "id": info.name,
        "object": "model",
        "created": info.created,
        "owned_by": "distgen",
        "family": info.family,
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
