"""`GET /v1/models/{id}/latents`: a seed's vector, and which of its numbers tell the most."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from distgen.serving.http.app import create_app
from distgen.serving.making.leading import MOST, leading_latents
from distgen.serving.making.sampler import MAX_SEED
from distgen.serving.making.shelf import Shelf


def get(engine: Any, *paths: str) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(Shelf([engine])), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = [await client.get(path) for path in paths]
        await engine.close()
        return answers

    return asyncio.run(run())


@pytest.mark.parametrize("truncation", [None, 0.5])
@pytest.mark.parametrize("seed", [0, 7, MAX_SEED])
def test_latents_of_a_seed_sent_back_bring_its_picture(make_engine, seed, truncation):
    engine = make_engine()
    controls = {} if truncation is None else {"truncation": truncation}

    async def run() -> tuple[Any, Any]:
        transport = httpx.ASGITransport(create_app(Shelf([engine])))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            query = {"seed": seed, **controls}
            read = (await client.get("/v1/models/fashion/latents", params=query)).json()
            bodies = (
                {"prompt": "Sneaker", "seed": seed, **controls},
                {"prompt": "Sneaker", "seed": 1, "latents": read["latents"]},
            )
            made = [await client.post("/v1/images/generations", json=body) for body in bodies]
        await engine.close()
        return read, [answer.json()["data"][0]["b64_json"] for answer in made]

    read, (by_seed, by_latents) = asyncio.run(run())
    assert by_seed == by_latents
    assert (len(read["latents"]), read["seed"], read["digest"]) == (16, seed, "d" * 64)
    assert read["leading"] == list(range(16))


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("seed=-1", "seed"),
        (f"seed={MAX_SEED + 1}", "seed"),
        ("seed=seven", "seed"),
        ("seed=", "seed"),
        ("truncation=0", "truncation"),
        ("truncation=nan", "truncation"),
        ("truncation=inf", "truncation"),
        ("sed=1", "sed"),
        ("seed=1&seed=2", None),
    ],
)
def test_impossible_query_is_refused_in_words(make_engine, query, param):
    (answer,) = get(make_engine(), f"/v1/models/fashion/latents?{query}")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}
    if param == "sed":
        assert "seed" in error["message"]


def test_model_that_is_not_served_has_no_latents(make_engine):
    (answer,) = get(make_engine(), "/v1/models/other/latents?seed=1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_model_says_how_many_latents_it_has_and_which_lead(make_engine):
    (answer,) = get(make_engine(), "/v1/models/fashion")
    assert answer.json()["latent_dim"] == 16
    assert answer.json()["leading_latents"] == list(range(16))


def test_latents_that_hold_the_most_lead():
    def group(*pairs: tuple[int, float]) -> SimpleNamespace:
        strongest = tuple(SimpleNamespace(index=i, kl_nats=kl) for i, kl in pairs)
        return SimpleNamespace(strongest=strongest)

    groups = (group((3, 2.0), (0, 0.5)), group((9, 4.0), (7, 1.0)))
    card: Any = SimpleNamespace(latents=SimpleNamespace(groups=groups))
    assert leading_latents(card, 10) == (9, 3, 7, 0)
    assert leading_latents(None, 3) == (0, 1, 2)
    assert leading_latents(None, 1000) == tuple(range(MOST))
