"""Models change under load, and clients see one digest or the other and never an error."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from starlette.types import Message

from distgen.registry import inspect_bundle
from distgen.serving.http.app import create_app
from distgen.serving.http.openai.answering import DIGEST_HEADER
from distgen.serving.making.sampler import Picture
from distgen.serving.making.shelf import Shelf
from tests.unit.serving.making.bundles import alone, bundle, in_loop, shelf_of, store_of

PATH = "/v1/images/generations"
SWAPS, CALLERS = 100, 8
PICTURE = Picture(seed=7, label=1)
BODY = {"prompt": "one", "seed": 7}


@asynccontextmanager
async def client_of(shelf: Shelf) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(shelf), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await shelf.close()


def file_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["data"]
    return base64.b64decode(image["b64_json"])


@in_loop
async def test_100_swaps_under_load_fail_no_request_and_mix_no_digest(tmp_path: Path):
    store = store_of(tmp_path, 3)
    shelf = shelf_of(store, "digits")
    expected = {}
    for version in (1, 2, 3):
        place = store.bundle("digits", version)
        expected[inspect_bundle(place).digest] = await alone(place, PICTURE)
    assert len(set(expected.values())) == 3
    changes: list[str] = []
    shelf.listeners.append(lambda change: changes.append(change.kind))
    seen: list[str] = []
    done = asyncio.Event()

    async with client_of(shelf) as client:

        async def caller() -> None:
            while not done.is_set():
                answer = await client.post(PATH, json=BODY)
                file = file_of(answer)
                digest = answer.json()["digest"]
                assert answer.headers[DIGEST_HEADER] == digest
                assert file == expected[digest]
                seen.append(digest)

        callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
        for turn in range(SWAPS):
            version = (turn + 1) % 3 + 1
            store.promote(store.bundle("digits", version), "digits", force=True)
            await shelf.look()
            before = len(seen)
            while len(seen) < before + 2 and not any(task.done() for task in callers):
                await asyncio.sleep(0)
        done.set()
        await asyncio.gather(*callers)
        assert changes == ["swap"] * SWAPS
        assert len(shelf._memory._held) == 1, "nothing of what was swapped out is left"
    assert set(seen) == set(expected)


@in_loop
async def test_models_and_readiness_tell_names_trial_and_problem(tmp_path: Path):
    store = store_of(tmp_path, 2)
    other = bundle(tmp_path / "shoes", 5, name="shoes")
    shelf = shelf_of(store, "digits", f"boots={other.path}")
    async with client_of(shelf) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(m["id"], m["loaded"]) for m in listed] == [("digits", True), ("boots", True)]
        assert listed[0]["names"] == ["digits", "digits@champion", "digits:1"]
        assert "problem" not in (await client.get("/readyz")).json()
        store.promote(store.bundle("digits", 2), "digits", "canary", share=0.25, force=True)
        await shelf.look()
        model = (await client.get("/v1/models/digits")).json()
        assert model["canary"]["share"] == 0.25
        assert (await client.get("/v1/models/digits:2")).json()["digest"] == (
            model["canary"]["digest"]
        )
        answer = await client.post(PATH, json=BODY | {"model": "digits@canary"})
        assert answer.json()["digest"] == model["canary"]["digest"]
        assert file_of(answer) == await alone(store.bundle("digits", 2), PICTURE)
        answer = await client.post(PATH, json=BODY | {"model": "boots"})
        assert (answer.json()["model"], file_of(answer)) == ("boots", await alone(other, PICTURE))
        (Path(store.bundle("digits", 2).path) / "model.safetensors").unlink()
        store.rollback("digits", "canary")
        await shelf.look()
        store.promote(bundle(tmp_path / "next", 8), force=True)
        (Path(store.bundle("digits", 3).path) / "config.json").unlink()
        await shelf.look()
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert "version 3" in ready.json()["problem"]
        assert "version 3" in (await client.get("/v1/models/digits")).json()["problem"]
        assert "problem" not in (await client.get("/v1/models/boots")).json()
        for path in ("/v1/models/digits:9", "/v1/models/digits@canary"):
            missing = await client.get(path)
            assert missing.status_code == 404
            assert "'digits@champion'" in missing.json()["error"]["message"]


@in_loop
async def test_a_model_that_cannot_be_loaded_again_is_unavailable(tmp_path: Path):
    store = store_of(tmp_path, 1)
    other = bundle(tmp_path / "shoes", 5, name="shoes")
    shelf = shelf_of(store, "digits", other.path, memory_bytes=20_000)
    assert not shelf.describe("shoes").loaded
    (Path(other.path) / "model.safetensors").unlink()
    async with client_of(shelf) as client:
        answer = await client.post(PATH, json=BODY | {"model": "shoes"})
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("model_unavailable", "model")
        assert str(tmp_path) not in answer.text
        assert 0 < int(answer.headers["retry-after"]) <= 60
        listed = {each["name"]: each for each in (await client.post("/v2/repository/index")).json()}
        assert listed["shoes"]["state"] == "UNAVAILABLE"
        assert (await client.get("/v2/models/shoes/ready")).status_code == 503
        ready = await client.get("/readyz")
        assert "shoes: " in ready.json()["problem"]
        assert str(tmp_path) not in ready.text, "whoever asks needs no key"
        assert (await client.post(PATH, json=BODY)).status_code == 200


@in_loop
async def test_who_only_looks_loads_no_model(tmp_path: Path):
    store_of(tmp_path, 1, "a")
    store = store_of(tmp_path, 1, "b")
    shelf = shelf_of(store, "a", "b", memory_bytes=20_000)
    async with client_of(shelf) as client:
        for path in ("", "/ready", "/versions/" + shelf.describe("b").info.digest):
            answer = await client.get(f"/v2/models/b{path}")
            assert answer.status_code == 200, answer.text
            assert answer.json().get("ready", True)
        _, cold = (await client.post("/v2/repository/index")).json()
        assert (cold["state"], cold["reason"][:13]) == ("READY", "not in memory")
        latents = (await client.get("/v1/models/b/latents?seed=3")).json()["latents"]
        assert len(latents) == 4
        assert not shelf.describe("b").loaded


@in_loop
async def test_a_reader_that_stands_still_holds_no_model(tmp_path: Path):
    store_of(tmp_path, 1, "a")
    store = store_of(tmp_path, 1, "b")
    shelf = shelf_of(store, "a", "b", memory_bytes=20_000)
    app = create_app(shelf)
    body = json.dumps({"n": 40, "stream": True, "model": "a"}).encode()
    stands, goes_on = asyncio.Event(), asyncio.Event()
    sent: list[Message] = []

    asked: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if asked:
            return asked.pop()
        await goes_on.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            stands.set()
            await goes_on.wait()

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "headers": [], "client": ("127.0.0.1", 1), "server": ("test", 80),
    }  # fmt: skip
    reading = asyncio.create_task(app(scope, receive, send))
    await stands.wait()
    async with client_of(shelf) as client:
        answer = await client.post(PATH, json=BODY | {"model": "b"})
        assert file_of(answer) == await alone(store.bundle("b", 1), PICTURE)
        assert not shelf.describe("a").loaded
        goes_on.set()
        await asyncio.wait([reading])
