"""Nothing of an endpoint answers without a key but what the table opens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount
from tritonclient.utils import InferenceServerException

from distgen.core.errors import UsageError
from distgen.serving.client import Client
from distgen.serving.http import app as application
from distgen.serving.http.gate.keyfile import add, revoke
from distgen.serving.http.gate.keyring import LOOK_EVERY_S, Keyring
from distgen.serving.http.gate.table import is_known, need_of
from distgen.serving.making.shelf import Shelf
from tests.unit.serving.http.gate.test_keyfile import Clock
from tests.unit.serving.servers import listening

PATH = "/v1/images/generations"
INFER = "/v2/models/fashion/infer"
ONE_SEED = {"inputs": [{"name": "seed", "datatype": "INT64", "shape": [1], "data": [5]}]}


class Guarded:
    """An endpoint with keys, all of whose routes are known."""

    def __init__(self, engine: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.clock = path, Clock()
        self.key = add(path, "alice")
        self.admin = add(path, "root", ["admin"])
        self.slow = add(path, "slow", per_minute=20)
        frame = application._frame
        frames: list[FastAPI] = []

        def kept(shelf: Shelf, keys: Keyring | None) -> FastAPI:
            frames.append(frame(shelf, keys))
            return frames[-1]

        monkeypatch.setattr(application, "_frame", kept)
        self.app = application.create_app(Shelf([engine]), keys=Keyring(path, self.clock))
        self.routes = [found for route in frames[0].routes for found in walk(route)]

    @asynccontextmanager
    async def client(self, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            yield client

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            async with self.client(key) as client:
                return await client.request(method, path, **more)

        return asyncio.run(run())


def walk(route: BaseRoute, before: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of a route and of what lies below it."""
    path = before + getattr(route, "path", "/unknown")
    inner = getattr(route, "routes", None) or []
    for part in inner:
        yield from walk(part, path)
    if isinstance(route, Mount) and not inner:
        yield "GET", f"{path}/{{file:path}}"
    elif not inner:
        for method in getattr(route, "methods", None) or {"GET"}:
            yield method, path


@pytest.fixture
def guarded(make_engine: Callable[..., Any], tmp_path: Path, monkeypatch) -> Iterator[Guarded]:
    engine = make_engine()
    yield Guarded(engine, tmp_path / "keys.json", monkeypatch)
    asyncio.run(engine.close())


def filled(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "fashion", path)


def test_readiness_tells_of_a_broken_file_of_keys_and_not_where_it_lies(guarded):
    assert "problem" not in guarded.ask("GET", "/readyz").json()
    good = guarded.path.read_bytes()
    guarded.path.write_bytes(b"{")
    guarded.clock.now_s += LOOK_EVERY_S
    assert guarded.ask("GET", "/v1/models", guarded.key).status_code == 200
    told = guarded.ask("GET", "/readyz")
    assert told.json()["problem"] == "the file of keys cannot be read"
    guarded.path.write_bytes(good)
    guarded.clock.now_s += LOOK_EVERY_S
    assert guarded.ask("GET", "/v1/models", guarded.key).status_code == 200
    assert "problem" not in guarded.ask("GET", "/readyz").json()


def test_every_route_is_in_the_table_and_answers_only_whom_it_says(guarded: Guarded):
    assert len(guarded.routes) > 15
    for method, path in guarded.routes:
        assert is_known(path), f"say in distgen/serving/http/gate/table.py what {path} needs"
        need = need_of(filled(path))
        bare = guarded.ask(method, filled(path))
        assert (bare.status_code in (401, 403)) is (need != "open"), (method, path)
        right, wrong = (
            (guarded.key, guarded.admin) if need == "generate" else (guarded.admin, guarded.key)
        )
        assert guarded.ask(method, filled(path), right).status_code not in (401, 403)
        if need != "open":
            assert guarded.ask(method, filled(path), wrong).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/metrics",
        "/metrics/",
        "/v1/images/generations/",
        "//",
        "//livez",
        "/livez/",
        "/livez\n",
        "/LIVEZ",
        "/docsx",
        "/v1/images/other",
        "/v2/models/fashion/unload",
        "/v2/models/fashion/versions/1/unload",
        "/v2/repository/models/fashion/load",
        "/playground/../metrics/..",
    ],
)
def test_what_is_not_in_the_table_is_the_administrators(guarded: Guarded, path: str):
    assert need_of(path) == "admin"
    if path.isprintable() and not path.startswith("//") and ".." not in path:
        assert guarded.ask("GET", path).status_code == 401
        assert guarded.ask("GET", path, guarded.key).status_code == 403


@pytest.mark.parametrize(
    "sent",
    [
        [],
        ["Bearer"],
        ["Bearer "],
        ["Basic {key}"],
        ["{key}"],
        ["Bearer {key}x"],
        ["Bearer {key} x"],
        ["Bearer x", "Bearer {key}"],
        ["Bearer {key}", "Bearer x"],
        ["Bearer \xff\xfe"],
        ["Bearer " + "x" * 10_000],
    ],
)
def test_without_a_good_key_it_is_401_with_a_challenge(guarded: Guarded, sent):
    headers = [("authorization", each.replace("{key}", guarded.key)) for each in sent]
    raw = [(name, value.encode("latin-1")) for name, value in headers]
    for path, shape in ((PATH, dict), (INFER, str)):
        response = guarded.ask("POST", path, headers=raw, json={})
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith('Bearer realm="distgen"')
        assert isinstance(response.json()["error"], shape)
        assert guarded.key not in response.text


def test_another_spelling_of_the_scheme_is_fine(guarded: Guarded):
    headers = {"authorization": f"bearer  {guarded.key} "}
    assert guarded.ask("GET", "/v1/models", headers=headers).status_code == 200


def test_the_wrong_scope_is_403_and_says_which(guarded: Guarded):
    response = guarded.ask("POST", PATH, guarded.admin, json={})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "insufficient_scope"
    assert "'generate'" in response.json()["error"]["message"]
    assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


def test_pictures_are_counted_and_beyond_the_rate_it_is_429(guarded: Guarded):
    def ask(count: int) -> httpx.Response:
        return guarded.ask("POST", PATH, guarded.slow, json={"n": count})

    assert ask(16).status_code == 200
    refused = ask(16)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) == 36  # 12 more, at 20 a minute
    assert ask(4).status_code == 200  # what was refused took nothing
    inference = guarded.ask("POST", INFER, guarded.slow, json=ONE_SEED)
    assert inference.status_code == 429  # pictures are pictures, whatever asks for them
    assert isinstance(inference.json()["error"], str)
    assert ask(0).status_code == 400  # before it is counted
    assert ask(21).status_code == 400  # would never be let through
    assert guarded.ask("POST", PATH, guarded.key, json={"n": 32}).status_code == 200
    assert guarded.ask("GET", "/v1/models", guarded.slow).status_code == 200
    guarded.clock.now_s += 36
    assert ask(12).status_code == 200


def test_a_revoked_key_opens_nothing_without_a_restart(guarded: Guarded):
    assert guarded.ask("GET", "/v1/models", guarded.key).status_code == 200
    revoke(guarded.path, "alice")
    guarded.clock.now_s += LOOK_EVERY_S
    assert guarded.ask("GET", "/v1/models", guarded.key).status_code == 401


def test_websockets_are_closed(guarded: Guarded):
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/livez", "headers": []}
    asyncio.run(guarded.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_stock_clients_send_keys_and_hear_what_is_wrong(guarded: Guarded):
    seeds = triton.InferInput("seed", [1], "INT64")
    seeds.set_data_from_numpy(np.array([5]))
    with listening(guarded.app) as place:
        base_url = f"http://{place}/v1"
        with openai.OpenAI(api_key=guarded.key, base_url=base_url, max_retries=0) as client:
            assert len(client.images.generate(prompt="sneaker", n=2).data) == 2
        with openai.OpenAI(api_key="wrong", base_url=base_url, max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as error:
                client.models.list()
            assert error.value.code == "invalid_api_key"
        with openai.OpenAI(api_key=guarded.slow, base_url=base_url, max_retries=0) as client:
            client.images.generate(prompt="sneaker", n=20)
            with pytest.raises(openai.RateLimitError):
                client.images.generate(prompt="sneaker", n=20)
        with triton.InferenceServerClient(place) as client:
            headers = {"Authorization": f"Bearer {guarded.key}"}
            assert client.infer("fashion", [seeds], headers=headers).as_numpy("seed") == [5]
            with pytest.raises(InferenceServerException, match="wants a key"):
                client.infer("fashion", [seeds])
        assert Client(f"http://{place}", key=guarded.key).generate(n=1).model == "fashion"
        for key, said in ((None, "wants a key"), ("x", "unknown or was revoked")):
            with pytest.raises(UsageError, match=said):
                Client(f"http://{place}", key=key).generate(n=1)
    with pytest.raises(UsageError, match="one word"):
        Client("http://127.0.0.1", key="two\nwords")
