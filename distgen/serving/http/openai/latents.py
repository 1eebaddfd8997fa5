"""`GET /v1/models/{id}/latents`: what a seed's picture is made from."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distgen.core.errors import did_you_mean
from distgen.serving.http.errors import RequestError, documented, shorten
from distgen.serving.making.sampler import (
    MAX_SEED,
    MAX_TRUNCATION,
    MIN_TRUNCATION,
    Picture,
    latents_for,
)
from distgen.serving.making.shelf import Shelf


class LatentsQuery(BaseModel):
    """The query of `GET /v1/models/{id}/latents`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """The picture's own seed."""
    truncation: float | None = Field(
        default=None, ge=MIN_TRUNCATION, le=MAX_TRUNCATION, allow_inf_nan=False
    )
    """Bound of the latents: lower is more typical and less varied."""


_PARAMETERS = [
    {"name": name, "in": "query", "schema": schema, "description": schema["description"]}
    for name, schema in LatentsQuery.model_json_schema()["properties"].items()
]


def add_routes(app: FastAPI, shelf: Shelf) -> None:
    """Add `GET /v1/models/{id}/latents`."""

    @app.get(
        "/v1/models/{name:path}/latents",
        openapi_extra={"parameters": _PARAMETERS},
        responses=documented(404),
    )
    async def latents(name: str, request: Request) -> dict[str, Any]:
        """The latent vector that a seed stands for, and which of its numbers tell the most."""
        query = parse_query(request)
        info = shelf.describe(name).info
        picture = Picture(query.seed, truncation=query.truncation)
        return {
            "object": "latents",
            "model": info.name,
            "digest": info.digest,
            "seed": query.seed,
            "latents": latents_for([picture], info.latent_dim)[0].tolist(),
            "leading": list(info.leading_latents),
        }


def parse_query(request: Request) -> LatentsQuery:
    """The query of a request.

    Raises:
        RequestError: A field is unknown, impossible, or there twice.
    """
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    if len(given) < len(pairs):
        raise RequestError("A field is there twice. Send each once.")
    try:
        return LatentsQuery.model_validate(given)
    except ValidationError as error:
        name = str(error.errors(include_url=False)[0]["loc"][0])
        if name not in LatentsQuery.model_fields:
            raise RequestError(
                f"There is no field {shorten(name)!r}; "
                f"{did_you_mean(name, LatentsQuery.model_fields)}.",
                param=name,
                code="unknown_parameter",
            ) from error
        raise _impossible(name, given[name]) from error


def _impossible(name: str, given: str) -> RequestError:
    expected = {
        "seed": f"A seed is a whole number from 0 to {MAX_SEED}.",
        "truncation": f"It is a number from {MIN_TRUNCATION:g} to {MAX_TRUNCATION:g}.",
    }[name]
    return RequestError(f"{name} cannot be {shorten(repr(given))}. {expected}", param=name)
