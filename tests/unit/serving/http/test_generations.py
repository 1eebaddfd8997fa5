"""The endpoint as clients meet it: answers, errors, the official client, load and hang-ups."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from distgen.serving.http.app import create_app
from distgen.serving.http.body import MAX_BODY_BYTES
from distgen.serving.http.openai.answering import DIGEST_HEADER
from distgen.serving.http.openai.fields import MAX_IMAGES
from distgen.serving.making.engine import Engine
from distgen.serving.making.shelf import Shelf

PATH = "/v1/images/generations"


@asynccontextmanager
async def client_of(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(Shelf([engine])), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await engine.close()


def call(engine: Engine, ask: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with client_of(engine) as client:
            return await ask(client)

    return asyncio.run(run())


def files_of(response: httpx.Response) -> list[bytes]:
    assert response.status_code == 200, response.text
    return [base64.b64decode(image["b64_json"]) for image in response.json()["data"]]


def test_answer_has_the_pictures_their_seeds_and_the_digest(make_engine):
    body = {"prompt": "sneaker", "n": 3, "size": "28x28", "seed": 7, "model": "fashion"}
    response = call(make_engine(), lambda client: client.post(PATH, json=body))
    for data in files_of(response):
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.size, image.mode) == ("PNG", (28, 28), "L")
    answer = response.json()
    assert [image["label"] for image in answer["data"]] == [2, 2, 2]
    assert answer["data"][0]["revised_prompt"] == "Sneaker"
    assert answer["data"][0]["seed"] == 7
    assert len({image["seed"] for image in answer["data"]}) == 3
    assert len({image["b64_json"] for image in answer["data"]}) == 3
    assert answer["digest"] == response.headers[DIGEST_HEADER] == "d" * 64
    assert (answer["size"], answer["output_format"]) == ("28x28", "png")


@pytest.mark.parametrize("name", ["conditional-gan", "rgb-gan", "lstm-vae"])
def test_same_seed_same_bytes_whatever_else_is_asked_for(make_engine, name):
    async def ask(client: httpx.AsyncClient) -> None:
        async def files(**body: Any) -> list[bytes]:
            return files_of(await client.post(PATH, json={"prompt": "random", **body}))

        alone = await files(seed=11, n=5)
        crowd = [files(n=1 + i % 7, seed=1000 + i) for i in range(25)]
        among, *_ = await asyncio.gather(files(seed=11, n=5), *crowd)
        assert among == alone
        assert (await files(seed=11, n=1)) == alone[:1]

    call(make_engine(name), ask)


def test_a_picture_comes_back_alone_by_its_reported_seed(make_engine):
    async def ask(client: httpx.AsyncClient) -> None:
        first = await client.post(PATH, json={"n": 4})
        for image, data in zip(first.json()["data"], files_of(first), strict=True):
            again = await client.post(PATH, json={"seed": image["seed"]})
            assert files_of(again) == [data]
            assert again.json()["data"][0]["label"] == image["label"]

    call(make_engine(), ask)


def test_requests_without_a_seed_differ(make_engine):
    async def ask(client: httpx.AsyncClient) -> tuple[list[bytes], list[bytes]]:
        return files_of(await client.post(PATH, json={})), files_of(
            await client.post(PATH, json={})
        )

    first, second = call(make_engine(), ask)
    assert first != second


@pytest.mark.parametrize(
    ("prompt", "label"),
    [("t shirt/TOP", 0), ("ankle-boot", 3), ("class:1", 1), ("Class: 3", 3), (" Sneaker ", 2)],
)
def test_classes_by_any_spelling(make_engine, prompt, label):
    response = call(make_engine(), lambda client: client.post(PATH, json={"prompt": prompt}))
    assert response.json()["data"][0]["label"] == label


def test_class_labels_name_each_picture(make_engine):
    body = {"class_labels": ["sneaker", 0, "class:3"]}
    response = call(make_engine(), lambda client: client.post(PATH, json=body))
    assert [image["label"] for image in response.json()["data"]] == [2, 0, 3]


@pytest.mark.parametrize(("fmt", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_formats_and_data_urls(make_engine, fmt, name):
    body = {"output_format": fmt, "response_format": "url", "output_compression": 80}
    response = call(make_engine("rgb-gan"), lambda client: client.post(PATH, json=body))
    head, _, text = response.json()["data"][0]["url"].partition(",")
    assert head == f"data:image/{fmt};base64"
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert (image.format, image.size, image.mode) == (name, (16, 16), "RGB")


def test_truncation_changes_the_picture_and_zero_change_fields_do_not(make_engine):
    async def ask(client: httpx.AsyncClient) -> list[list[bytes]]:
        bodies: list[dict[str, Any]] = [
            {"seed": 1, "prompt": "sneaker"},
            {"seed": 1, "prompt": "sneaker", "truncation": 0.3},
            {
                "seed": 1,
                "prompt": "sneaker",
                "user": "u",
                "quality": "auto",
                "stream": False,
                "size": "auto",
                "background": "auto",
                "moderation": "low",
                "style": None,
                "n": None,
            },
        ]
        return [files_of(await client.post(PATH, json=body)) for body in bodies]

    plain, truncated, same = call(make_engine(), ask)
    assert plain == same
    assert plain != truncated


BAD = [
    ({"prompt": "sneeker"}, 400, "prompt", "unknown_class", "did you mean 'Sneaker'"),
    ({"prompt": "class:4"}, 400, "prompt", "unknown_class", "0 to 3"),
    ({"prompt": "class:-1"}, 400, "prompt", "unknown_class", "0 to 3"),
    ({"prompt": 5}, 400, "prompt", "invalid_value", "string"),
    ({"n": 0}, 400, "n", "invalid_value", f"1 to {MAX_IMAGES}"),
    ({"n": 10**9}, 400, "n", "invalid_value", f"1 to {MAX_IMAGES}"),
    ({"n": -1}, 400, "n", "invalid_value", "1 to"),
    ({"n": "4"}, 400, "n", "invalid_value", "whole number"),
    ({"n": True}, 400, "n", "invalid_value", "whole number"),
    ({"n": 1.5}, 400, "n", "invalid_value", "whole number"),
    ({"size": "1024x1024"}, 400, "size", "invalid_value", "'28x28' or 'auto'"),
    ({"output_format": "gif"}, 400, "output_format", "invalid_value", "'png' or 'webp' or 'jpeg'"),
    ({"response_format": "png"}, 400, "response_format", "invalid_value", "'b64_json'"),
    ({"output_compression": 101}, 400, "output_compression", "invalid_value", "100"),
    ({"seed": -1}, 400, "seed", "invalid_value", "from 0 to"),
    ({"seed": 2**63}, 400, "seed", "invalid_value", "from 0 to"),
    ({"truncation": 0}, 400, "truncation", "invalid_value", "0.05"),
    ({"partial_images": 2}, 400, "partial_images", "invalid_value", "whole pictures"),
    ({"style": "vivid"}, 400, "style", "invalid_value", "Leave the field out"),
    ({"quality": "hd"}, 400, "quality", "invalid_value", "'auto' or 'standard'"),
    ({"model": "dall-e-3"}, 404, "model", "model_not_found", "'fashion'"),
    ({"sede": 7}, 400, "sede", "unknown_parameter", "did you mean 'seed'"),
    ({"class_labels": [0, 1], "n": 3}, 400, "class_labels", "invalid_value", "set n to 2"),
    ({"class_labels": [9]}, 400, "class_labels", "unknown_class", "0 to 3"),
    ({"class_labels": []}, 400, "class_labels", "invalid_value", "0 entries"),
    ({"class_labels": [0], "prompt": "sneaker"}, 400, "class_labels", "invalid_value", "both"),
    ({"prompt": "x" * 2000}, 400, "prompt", "invalid_value", "1000"),
]


@pytest.mark.parametrize(("body", "status", "param", "code", "says"), BAD)
def test_bad_fields_name_themselves_and_the_remedy(make_engine, body, status, param, code, says):
    response = call(make_engine(), lambda client: client.post(PATH, json=body))
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert says in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"prompt=sneaker&n=4", "not JSON"),
        (b'{"prompt": ', "not JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[" * 100_000, "too deeply nested"),
        (b'{"n": ' + b"9" * 5000 + b"}", "number is too long"),
        (b'{"truncation": NaN}', "truncation"),
        (b"[1, 2]", "JSON array"),
        (b'"sneaker"', "JSON string"),
        (b"null", "JSON null"),
    ],
)
def test_bodies_that_are_no_request_are_refused(make_engine, content, says):
    response = call(make_engine(), lambda client: client.post(PATH, content=content))
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


def test_oversized_body_is_refused(make_engine):
    content = b'{"prompt": "' + b"x" * MAX_BODY_BYTES + b'"}'
    response = call(make_engine(), lambda client: client.post(PATH, content=content))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_classes_of_a_model_without_classes_are_refused(make_engine):
    response = call(make_engine("vae"), lambda client: client.post(PATH, json={"prompt": "bag"}))
    assert response.status_code == 400
    assert "'random'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", PATH, 405), ("GET", "/v1/models/other", 404)],
)
def test_wrong_paths_and_methods_have_the_error_shape(make_engine, method, path, status):
    response = call(make_engine(), lambda client: client.request(method, path))
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_models_and_probes(make_engine):
    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        paths = ("/v1/models", "/v1/models/fashion", "/livez", "/readyz", "/openapi.json")
        return [await client.get(path) for path in paths]

    listed, one, live, ready, schema = call(make_engine(), ask)
    assert listed.json() == {"object": "list", "data": [one.json()]}
    assert one.json()["id"] == "fashion"
    assert one.json()["classes"][2] == "Sneaker"
    assert live.status_code == ready.status_code == 200
    assert ready.json()["digest"] == "d" * 64
    body = schema.json()["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]
    assert "truncation" in body["schema"]["properties"]


class SlowEngine:
    """Holds back an engine's worker thread until it is let go."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.entered = threading.Event()
        self.go = threading.Event()
        sample = engine.hands.sampler.sample

        def slowly(pictures):
            self.entered.set()
            self.go.wait()
            return sample(pictures)

        engine.hands.sampler.sample = slowly  # type: ignore[method-assign]


def test_full_queue_is_429_with_retry_after_and_nothing_is_lost(make_engine):
    slow = SlowEngine(make_engine(max_waiting=40))

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = asyncio.create_task(client.post(PATH, json={"n": 30}))
        await asyncio.to_thread(slow.entered.wait)
        refused = await client.post(PATH, json={"n": 11})
        second = asyncio.create_task(client.post(PATH, json={"n": 10}))
        await asyncio.sleep(0.05)
        slow.go.set()
        return [refused, await first, await second]

    refused, first, second = call(slow.engine, ask)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    assert len(files_of(first)) == 30
    assert len(files_of(second)) == 10


def test_cancelled_request_frees_its_slots(make_engine):
    slow = SlowEngine(make_engine(max_waiting=40))

    async def ask(client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(client.post(PATH, json={"n": 1}))
        await asyncio.to_thread(slow.entered.wait)
        gone = asyncio.create_task(client.post(PATH, json={"n": 39}))
        while slow.engine.waiting < 40:
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert slow.engine.waiting == 1
        again = asyncio.create_task(client.post(PATH, json={"n": 39}))
        await asyncio.sleep(0.05)
        slow.go.set()
        assert len(files_of(await first)) == 1
        assert len(files_of(await again)) == 39

    call(slow.engine, ask)


def test_a_network_that_fails_is_a_500_in_the_error_shape_and_the_next_request_works(make_engine):
    engine = make_engine()
    sample = engine.hands.sampler.sample
    broken = iter([True])

    def fail_once(pictures):
        if next(broken, False):
            raise RuntimeError("out of memory: secret detail")
        return sample(pictures)

    engine.hands.sampler.sample = fail_once

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post(PATH, json={"n": 2}) for _ in range(2)]

    failed, fine = call(engine, ask)
    assert failed.status_code == 500
    assert failed.json()["error"]["type"] == "server_error"
    assert "secret" not in failed.text
    assert len(files_of(fine)) == 2


def test_official_client_gets_pictures_and_typed_errors(make_engine):
    async def run() -> None:
        engine = make_engine()
        transport = httpx.ASGITransport(create_app(Shelf([engine])))
        async with openai.AsyncOpenAI(
            api_key="none",
            base_url="http://test/v1",
            max_retries=0,
            http_client=httpx.AsyncClient(transport=transport),
        ) as client:
            answer = await client.images.generate(
                model="fashion",
                prompt="sneaker",
                n=4,
                size="28x28",  # type: ignore[call-overload]
                response_format="b64_json",
                extra_body={"seed": 7},
            )
            assert len(answer.data) == 4
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))))
            assert pixels.shape == (28, 28)
            assert answer.data[0].revised_prompt == "Sneaker"
            assert [model.id async for model in client.models.list()] == ["fashion"]
            assert (await client.models.retrieve("fashion")).owned_by == "distgen"
            with pytest.raises(openai.BadRequestError) as bad:
                await client.images.generate(prompt="unicorn")
            assert (bad.value.code, bad.value.param) == ("unknown_class", "prompt")
            with pytest.raises(openai.NotFoundError):
                await client.images.generate(prompt="sneaker", model="gpt-image-1")
        await engine.close()

    asyncio.run(run())


def test_every_error_body_is_json_with_its_length(make_engine):
    response = call(make_engine(), lambda client: client.post(PATH, json={"n": 0}))
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    assert json.loads(response.content)
