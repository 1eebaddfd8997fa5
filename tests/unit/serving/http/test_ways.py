"""Latents, temperature, ways between pictures and streams, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from distgen.serving.http.app import create_app
from distgen.serving.making.engine import Engine, ModelInfo, capabilities_of
from distgen.serving.making.sampler import Picture, latents_for
from distgen.serving.making.shelf import Shelf
from tests.unit.clip_models import SPEC, tiny_model
from tests.unit.serving.making.here import engine_here

PATH = "/v1/images/generations"


def ask(engines: list[Engine], how: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        shelf = Shelf(engines)
        transport = httpx.ASGITransport(create_app(shelf), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await how(client)
        await shelf.close()
        return answer

    return asyncio.run(run())


def files_of(response: httpx.Response) -> list[bytes]:
    assert response.status_code == 200, response.text
    return [base64.b64decode(image["b64_json"]) for image in response.json()["data"]]


def vector_of(seed: int) -> list[float]:
    return latents_for([Picture(seed)], 16)[0].tolist()


async def files(client: httpx.AsyncClient, **body: Any) -> list[bytes]:
    return files_of(await client.post(PATH, json={"prompt": "sneaker", **body}))


def test_latents_bring_the_picture_of_their_seed(make_engine):
    async def how(client: httpx.AsyncClient) -> None:
        one, other = await files(client, seed=5), await files(client, seed=6)
        assert await files(client, latents=vector_of(5)) == one
        assert await files(client, latents=[vector_of(5), vector_of(6)]) == one + other
        assert await files(client, latents=[0] * 16) == await files(client, temperature=0)
        assert await files(client, seed=5, temperature=1) == one
        assert await files(client, seed=5, temperature=0.3) != one

    ask([make_engine()], how)


def test_separate_pictures_of_a_way_begin_and_end_with_those_of_the_seeds(make_engine):
    async def how(client: httpx.AsyncClient) -> None:
        first, middle, last = [(await files(client, seed=seed))[0] for seed in (1, 2, 3)]
        way = await files(client, interpolate=[1, 2, 3], n=5)
        assert [way[0], way[2], way[4]] == [first, middle, last]
        assert len(set(way)) == 5
        through = {"through": [2], "to": 3}
        assert await files(client, seed=1, interpolate=through, n=5) == way
        ends = {"to": [vector_of(2), vector_of(3)]}
        assert await files(client, latents=vector_of(1), interpolate=ends, n=5) == way
        loop = await files(client, seed=1, interpolate={"to": 3, "loop": True}, n=4)
        assert [loop[0], loop[2]] == [first, last]
        assert loop[3] == loop[1]

    ask([make_engine()], how)


@pytest.mark.parametrize(("fmt", "name"), [(None, "GIF"), ("gif", "GIF"), ("webp", "WEBP")])
def test_a_way_plays_in_one_file(make_engine, fmt, name):
    body = {
        "prompt": "sneaker",
        "seed": 1,
        "interpolate": {"to": 2, "steps": 6, "loop": True},
        "output_format": fmt,
        "frame_rate": 20,
    }

    async def how(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(PATH, json=body)

    response = ask([make_engine()], how)
    (data,) = files_of(response)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == name
        assert image.n_frames > 2
    answer = response.json()
    assert answer["data"][0]["seed"] == 1
    assert (answer["frame_rate"], answer["output_format"]) == (20, name.lower())


async def events_of(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with client.stream("POST", PATH, json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = (await response.aread()).decode()
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    for kind, data in blocks:
        assert kind.removeprefix("event: ") == json.loads(data.removeprefix("data: "))["type"]
    return [json.loads(data.removeprefix("data: ")) for _, data in blocks]


def test_a_stream_sends_the_bytes_of_the_whole_answer(make_engine):
    async def how(client: httpx.AsyncClient) -> None:
        body = {"prompt": "random", "seed": 7, "n": 70}
        whole = (await client.post(PATH, json=body)).json()
        events = await events_of(client, {**body, "stream": True, "partial_images": 0})
        assert {event["type"] for event in events} == {"image_generation.completed"}
        assert [event["index"] for event in events] == list(range(70))
        for event, image in zip(events, whole["data"], strict=True):
            assert image.items() <= event.items()
        assert {event["digest"] for event in events} == {"d" * 64}

    ask([make_engine()], how)


def test_a_stream_that_breaks_ends_with_an_error_event_and_frees_its_slots(make_engine):
    engine = make_engine()
    sample, calls = engine.hands.sampler.sample, iter(range(10))

    def fail_second(pictures):
        if next(calls) == 1:
            while engine.waiting == 70:  # until the first batch has been sent
                time.sleep(0.001)
            raise RuntimeError("secret detail")
        return sample(pictures)

    engine.hands.sampler.sample = fail_second

    async def how(client: httpx.AsyncClient) -> None:
        events = await events_of(client, {"n": 70, "stream": True})
        assert events[-1]["type"] == "error"
        assert events[-1]["error"]["type"] == "server_error"
        assert "secret" not in json.dumps(events[-1])
        assert {event["type"] for event in events[:-1]} == {"image_generation.completed"}
        assert len(await files(client, n=3)) == 3
        assert engine.waiting == 0

    ask([engine], how)


def test_a_stream_refused_at_once_has_its_status(make_engine):
    async def how(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(PATH, json={"n": 50, "stream": True})

    refused = ask([make_engine(max_waiting=40)], how)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_models_say_what_they_can(make_engine):
    async def how(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        return [
            (await client.get(f"/v1/models/{name}")).json() for name in ("fashion", "vae", "clips")
        ]

    vae = make_engine("vae")
    vae.info = replace(vae.info, name="vae")
    gan, vae_body, clips = ask([make_engine(), vae, clip_engine()], how)
    assert gan["capabilities"] == ["generations", "stream", "interpolate"]
    assert gan["latent_dim"] == 16
    assert vae_body["capabilities"] == [*gan["capabilities"], "variations", "edits"]
    assert clips["capabilities"] == ["generations", "stream"]


def clip_engine() -> Engine:
    network = tiny_model()
    able = capabilities_of(network, SPEC)
    info = ModelInfo("clips", "d" * 64, "rvae", SPEC, 0, 0, latent_dim=4, capabilities=able)
    return engine_here(network, info)


def test_a_model_of_clips_takes_latents_and_says_who_can_interpolate(make_engine):
    async def how(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        body = {"model": "clips", "latents": [0.0, 1.0, 0.5, 0.0]}
        return (
            await client.post(PATH, json=body),
            await client.post(PATH, json={"model": "clips", "interpolate": [1, 2]}),
        )

    fine, refused = ask([clip_engine(), make_engine()], how)
    assert len(files_of(fine)) == 1
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "unsupported_by_model")
    assert "Use the model 'fashion'" in error["message"]


WRONG = [
    ({"latents": [0.0] * 15}, "latents", "takes 16"),
    ({"latents": []}, "latents", "list of numbers"),
    ({"latents": [[]]}, "latents", "list of numbers"),
    ({"latents": [[0.0] * 16, [0.0] * 15]}, "latents", "15 numbers"),
    ({"latents": ["a"] * 16}, "latents", "list of numbers"),
    ({"latents": [True] * 16}, "latents", "list of numbers"),
    ({"latents": [1e300] * 16}, "latents", "-100 to 100"),
    ({"latents": "zeros"}, "latents", "list of numbers"),
    ({"latents": [[[0.0]]]}, "latents", "list of numbers"),
    ({"latents": [[0.0] * 16] * 2, "n": 3}, "latents", "set n to 2"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"temperature": "hot"}, "temperature", "number"),
    ({"interpolate": 5}, "interpolate", "list of seeds"),
    ({"interpolate": [1]}, "interpolate", "list of seeds"),
    ({"interpolate": [1, -2]}, "interpolate", "list of seeds"),
    ({"interpolate": [1.5, 2]}, "interpolate", "list of seeds"),
    ({"interpolate": {}}, "interpolate", '"to"'),
    ({"interpolate": {"to": 1, "stepz": 3}}, "interpolate", '"steps"'),
    ({"interpolate": {"to": 1, "steps": 1}}, "interpolate", "2 to 64"),
    ({"interpolate": {"to": 1, "steps": 10**9}}, "interpolate", "2 to 64"),
    ({"interpolate": {"to": [0.0] * 3}}, "interpolate", "takes 16"),
    ({"interpolate": list(range(100))}, "interpolate", "at most 256"),
    ({"interpolate": [1, 2], "seed": 3}, "interpolate", "Leave seed"),
    ({"interpolate": {"to": 2, "steps": 4}, "n": 4}, "n", "leave steps out"),
    ({"interpolate": [1, 2], "class_labels": [1]}, "class_labels", "as prompt"),
    ({"interpolate": {"to": 2}, "latents": [[0.0] * 16] * 2}, "latents", "one vector"),
    ({"interpolate": [1, 2], "output_format": "png"}, "output_format", "'gif' or 'webp'"),
    ({"interpolate": [1, 2], "n": 3, "output_format": "gif"}, "output_format", "'png'"),
    ({"stream": True, "response_format": "url"}, "response_format", "in a stream"),
    ({"stream": "yes please"}, "stream", "boolean"),
    ({"stream": True, "partial_images": 1}, "partial_images", "whole pictures"),
]


@pytest.mark.parametrize(("body", "param", "says"), WRONG)
def test_impossible_controls_name_themselves_and_the_remedy(make_engine, body, param, says):
    async def how(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(PATH, json=body)

    response = ask([make_engine()], how)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert says in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused_as_latents(make_engine, word):
    content = f'{{"latents": [{word}{", 0" * 15}]}}'

    async def how(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(PATH, content=content)

    response = ask([make_engine()], how)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "latents"


def test_separate_pictures_of_a_way_are_the_same_in_any_batch(make_engine):
    async def how(client: httpx.AsyncClient) -> None:
        alone = await files(client, interpolate=[1, 2], n=9)
        crowd = [files(client, n=1 + i % 5, seed=i) for i in range(10)]
        among, *_ = await asyncio.gather(files(client, interpolate=[1, 2], n=9), *crowd)
        assert among == alone
        assert np.asarray(Image.open(io.BytesIO(alone[4]))).shape == (28, 28)

    ask([make_engine()], how)
