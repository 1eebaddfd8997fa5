"""The HTTP application around a shelf of models; it knows nothing of Ray.

    POST /v1/images/generations    GET /v1/models    GET /v1/models/{id}
    GET /livez    GET /readyz    GET /docs
    and the Open Inference Protocol under /v2

Errors are always `{"error": {message, type, param, code}}`, under /v2 `{"error": message}`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from distgen.serving.http.errors import add_handlers
from distgen.serving.http.gate.gate import guarded
from distgen.serving.http.gate.keyring import Keyring
from distgen.serving.http.inference.routes import Inference
from distgen.serving.http.openai import models
from distgen.serving.http.openai.generations import Generations
from distgen.serving.making.shelf import Shelf


def create_app(shelf: Shelf, keys: Keyring | None = None) -> ASGIApp:
    """The application that answers for the models of a shelf, and ends them with itself.

    Args:
        shelf: The models.
        keys: Who may use it; None: whoever reaches it.
    """
    app = _frame(shelf)
    images = Generations(shelf)
    images.add_routes(app)
    models.add_routes(app, shelf)
    Inference(shelf).add_routes(app)
    everything = images.before(app)
    return everything if keys is None else guarded(everything, keys)


def _frame(shelf: Shelf) -> FastAPI:
    """Everything but pictures and models: probes, documentation, and errors."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await shelf.close()

    app = FastAPI(
        title="distgen", summary="Images by class, as the OpenAI API speaks.", lifespan=lifespan
    )

    @app.get("/livez")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        # An engine exists only once its model is loaded and has run.
        info = shelf.models()[0]
        return {"status": "ready", "model": info.name, "digest": info.digest}

    add_handlers(app)
    return app
