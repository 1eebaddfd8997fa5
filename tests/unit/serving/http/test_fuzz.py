"""Whatever is sent: pictures, or an error in the API's shape; never a failure, never silence."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from distgen.serving.http.app import create_app
from distgen.serving.making.engine import Engine
from distgen.serving.making.shelf import Shelf

PATH = "/v1/images/generations"
OPERATIONS = [
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/v1/models/{name}/latents"),
    ("POST", PATH),
    ("POST", "/v1/images/variations"),
    ("POST", "/v1/images/edits"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("POST", "/v2/repository/index"),
    *(
        (method, f"/v2/models/{{name}}{version}{end}")
        for version in ("", "/versions/{version}")
        for method, end in (("GET", ""), ("GET", "/ready"), ("POST", "/infer"))
    ),
]
POSITIVE = schemathesis.GenerationMode.POSITIVE
"""What the document allows. Routes without a body have little that could be against it."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
WHOLE: dict[str, Any] = {
    "prompt": "sneaker",
    "model": "fashion",
    "n": 2,
    "size": "28x28",
    "output_format": "png",
    "output_compression": 90,
    "response_format": "b64_json",
    "seed": 7,
    "truncation": 0.7,
    "user": "somebody",
    "quality": "auto",
    "style": None,
    "background": "auto",
    "stream": False,
}
VALUES = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400, 1.5, -0.0,
    5e-324, 1e308, float("nan"), float("inf"), "", "random", "class:-0", "class:99999999999", "७",
    "\u0000", "\ud800", "\U0001f45f", "a" * 3000, [], [[]], {}, {"n": 1}, [None], ["sneaker", 1],
    [True], [{}], [2**64], ["\udfff"] * 3,
]  # fmt: skip
INSERTED = [
    b"\xed\xa0\x80", b"\xff", b"\x00", b"\\ud800", b'"', b"{", b"}", b"NaN", b"-Infinity", b"1e999",
    b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"\xef\xbb\xbf", b",", b"\\u0000",
]  # fmt: skip
CONTENT_TYPES = [
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "\xff/",
    "",
]


@pytest.fixture(scope="module")
def url(make_engine) -> Iterator[str]:
    """The application behind a real server."""
    config = uvicorn.Config(create_app(Shelf([make_engine()])), port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_every_route_of_the_document_is_tried(url):
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    there = {(method.upper(), path) for path, known in paths.items() for method in known}
    assert there == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part)
def test_answers_are_those_that_the_document_promises(url, method, path):
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path][method]
    has_body = method == "POST" and path != "/v2/repository/index"
    modes = list(schemathesis.GenerationMode) if has_body else [POSITIVE]
    for mode in modes:

        @seed(0)
        @settings(
            max_examples=60,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)

        ask()


def mutated(rng: random.Random) -> tuple[bytes, str]:
    """A body that was once a request, and its content type."""
    body = dict(rng.sample(sorted(WHOLE.items()), rng.randint(0, len(WHOLE))))
    for _ in range(rng.randint(0, 3)):
        name = rng.choice([*WHOLE, "class_labels", "frame_rate", "sede", "", "\ud800", "__class__"])
        body[name] = rng.choice(VALUES)
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5)
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice((0, 0, 1, 2, 8))):
        content = rng.choice(DAMAGES)(rng, content)
    usual = rng.random() < 0.8
    return bytes(content), CONTENT_TYPES[0] if usual else rng.choice(CONTENT_TYPES)


def _flip(rng: random.Random, content: bytearray) -> bytearray:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def _cut(rng: random.Random, content: bytearray) -> bytearray:
    start, end = sorted(rng.randint(0, len(content)) for _ in range(2))
    return content[:start] + content[end:] if rng.random() < 0.5 else content[:end]


def _insert(rng: random.Random, content: bytearray) -> bytearray:
    at = rng.randint(0, len(content))
    inserted = rng.choice(INSERTED)
    return content[:at] + inserted + content[at:]


def _twice(rng: random.Random, content: bytearray) -> bytearray:
    name, value = rng.choice(sorted(WHOLE)), rng.choice(VALUES)
    field = f"{json.dumps(name)}:{json.dumps(value)}".encode()
    return content[:-1] + (b"," if len(content) > 2 else b"") + field + b"}"


def _junk(rng: random.Random, content: bytearray) -> bytearray:
    return bytearray(rng.randbytes(rng.randint(0, 300)))


DAMAGES = [_flip, _cut, _insert, _twice, _junk]


async def throw(engine: Engine, count: int) -> dict[int, int]:
    """Send mutated bodies, a few at once; counts of each status."""
    statuses: dict[int, int] = {}
    transport = httpx.ASGITransport(create_app(Shelf([engine])), raise_app_exceptions=True)
    numbers = iter(range(count))

    async def send(client: httpx.AsyncClient) -> None:
        for number in numbers:
            content, kind = mutated(random.Random(number))
            headers = {"content-type": kind.encode("latin-1")}
            answer = await client.post(PATH, content=content, headers=headers)
            if answer.headers["content-type"].startswith("text/event-stream"):
                assert answer.text.startswith("event: image_generation.completed\n"), number
                said = {"data": answer.text.split("\n\n")[:-1]}
            else:
                said = answer.json()
            if answer.status_code == 200:
                assert len(said["data"]) >= 1, number
            else:
                assert answer.status_code in (400, 404, 413, 429), (number, content, answer.text)
                assert set(said) == {"error"}
                assert set(said["error"]) == {"message", "type", "param", "code"}
                assert len(said["error"]["message"]) < 600, number
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1

    async with httpx.AsyncClient(transport=transport, base_url="http://t", timeout=60) as client:
        await asyncio.gather(*(send(client) for _ in range(8)))
        assert engine.waiting == 0
        assert (await client.post(PATH, json=WHOLE)).status_code == 200
    await engine.close()
    return statuses


def test_ten_thousand_mutated_bodies_get_pictures_or_an_error_in_shape(make_engine):
    statuses = asyncio.run(throw(make_engine(), 10_000))
    assert sum(statuses.values()) == 10_000
    assert {200, 400, 404} <= set(statuses), "some are still requests"
