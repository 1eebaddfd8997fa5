"""What is said of the models that are served."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from distgen.serving.http.errors import RequestError
from distgen.serving.making.engine import Engine, ModelInfo


def add_routes(app: FastAPI, engine: Engine) -> None:
    """Add `GET /v1/models` and `GET /v1/models/{id}`."""
    info = engine.info

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_body(info)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != info.name:
            raise unknown_model(name, info)
        return model_body(info)


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
        "card": info.card,
    }


def unknown_model(name: str, info: ModelInfo) -> RequestError:
    """The error for a model that is not served here."""
    return RequestError(
        f"The model {name!r} is not served here. Use {info.name!r}, or leave the field out.",
        status=HTTPStatus.NOT_FOUND,
        param="model",
        code="model_not_found",
    )
