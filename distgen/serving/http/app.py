"""The HTTP application around a shelf of models; it knows nothing of Ray.

    POST /v1/images/generations    POST /v1/images/variations    POST /v1/images/edits
    GET /v1/models    GET /v1/models/{id}    GET /v1/models/{id}/latents
    GET /livez    GET /readyz    GET /metrics    GET /    GET /docs
    and the Open Inference Protocol under /v2

Errors are always `{"error": {message, type, param, code}}`, under /v2 `{"error": message}`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from distgen.serving.http import metrics, pages
from distgen.serving.http.errors import EVERYWHERE, add_handlers, documented
from distgen.serving.http.gate.gate import guarded
from distgen.serving.http.gate.keyring import Keyring
from distgen.serving.http.inference.routes import Inference
from distgen.serving.http.observed import Observed, Terms
from distgen.serving.http.openai import latents, models
from distgen.serving.http.openai.generations import Generations
from distgen.serving.http.openai.remakes import Remakes
from distgen.serving.making.shelf import Shelf


def create_app(shelf: Shelf, terms: Terms | None = None, keys: Keyring | None = None) -> ASGIApp:
    """The application that answers for the models of a shelf, and ends them with itself.

    Args:
        shelf: The models.
        terms: How long requests may take, and what is logged of them.
        keys: Who may use it; None: whoever reaches it.
    """
    app = _frame(shelf, keys)
    images = Generations(shelf)
    images.add_routes(app)
    Remakes(shelf).add_routes(app)
    latents.add_routes(app, shelf)  # before the models, whose names may hold slashes
    models.add_routes(app, shelf)
    Inference(shelf).add_routes(app)
    metrics.add_routes(app)
    pages.add_routes(app)
    everything = images.before(app)
    let_in = everything if keys is None else guarded(everything, keys)
    # Outermost, so that it hears of those who are not let in.
    return Observed(let_in, {getattr(route, "path", "") for route in app.routes}, terms)


def _frame(shelf: Shelf, keys: Keyring | None) -> FastAPI:
    """Everything but pictures and models: probes, documentation, and errors."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        shelf.start()
        yield
        await shelf.close()

    app = FastAPI(
        title="distgen",
        summary="Images by class, as the OpenAI API speaks.",
        lifespan=lifespan,
        responses=documented(*EVERYWHERE),
        docs_url=None,  # FastAPI's own pages load their scripts from a CDN; see `pages`
        redoc_url=None,
    )

    @app.get("/livez")
    async def live() -> dict[str, str]:
        """Whether the process answers at all."""
        return {"status": "live"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        """Whether pictures can be asked for, and of which model."""
        # An engine exists only once its model is loaded and has run.
        info = shelf.models()[0]
        # Whoever asks needs no key, so where the file lies is not said.
        of_keys = "the file of keys cannot be read" if keys is not None and keys.problem else ""
        wrong = "; ".join(filter(None, (shelf.problem(), of_keys)))
        problem = {"problem": wrong} if wrong else {}
        return {"status": "ready", "model": info.name, "digest": info.digest, **problem}

    add_handlers(app)
    return app
