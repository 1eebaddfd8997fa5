"""Deadlines, hang-ups, and what is told of each request: to its client, the log and meters."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

from distgen.serving.http.app import create_app
from distgen.serving.http.body import MAX_BODY_BYTES
from distgen.serving.http.observed import ACCESS_LOG, Terms, wants_access_log
from distgen.serving.http.tracing import Tracing
from distgen.serving.making.engine import Engine
from distgen.serving.making.shelf import Shelf

PATH = "/v1/images/generations"


class Held:
    """An engine whose batches wait until they are let go."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.entered = threading.Event()
        self.go = threading.Event()
        self.made: list[int] = []
        sample = engine.hands.sampler.sample

        def held(pictures: Any) -> Any:
            self.entered.set()
            self.go.wait()
            self.made += [picture.seed for picture in pictures]
            return sample(pictures)

        engine.hands.sampler.sample = held  # type: ignore[method-assign]


@asynccontextmanager
async def client_of(engine: Engine, terms: Terms | None = None) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Shelf([engine]), terms)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await engine.close()


@asynccontextmanager
async def served(engine: Engine, terms: Terms | None = None) -> AsyncIterator[int]:
    """The application behind a real server; yields its port."""
    app = create_app(Shelf([engine]), terms)
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", backlog=2048)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task
        await engine.close()


def raw(body: bytes, *headers: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "host: test", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


LATE = [
    ({"x-request-timeout": "0.2"}, Terms()),
    ({}, Terms(timeout_s=0.2)),
    ({"x-request-timeout": "1000"}, Terms(longest_timeout_s=0.2)),
]


@pytest.mark.parametrize(("headers", "terms"), LATE, ids=["asked for", "by default", "at most"])
def test_a_request_whose_time_passes_is_504_and_never_runs(make_engine, headers, terms):
    held = Held(make_engine(max_waiting=40))

    async def run() -> None:
        async with client_of(held.engine, terms) as client:
            first = asyncio.create_task(client.post(PATH, json={"seed": 1}, headers=headers))
            await asyncio.to_thread(held.entered.wait)
            late = client.post(PATH, json={"seed": 2, "n": 30}, headers=headers)
            for answer in await asyncio.gather(first, late):
                error = error_of(answer, 504)
                assert (error["type"], error["code"]) == ("server_error", "deadline_exceeded")
            assert held.engine.waiting == 1, "only what the batch holds"
            held.go.set()
            while held.engine.waiting:
                await asyncio.sleep(0)
            assert held.made == [1]

    asyncio.run(run())


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "", "1 s", "\xff"])
def test_a_time_that_is_no_number_of_seconds_is_refused(make_engine, value):
    async def run() -> None:
        async with client_of(make_engine()) as client:
            headers = {"x-request-timeout": value.encode("latin-1")}
            error = error_of(await client.post(PATH, json={}, headers=headers), 400)
            assert error["param"] == "x-request-timeout"
            assert "number of seconds" in error["message"]
            for fine in ("60", "0.5e3", "inf"):
                answer = await client.post(PATH, json={}, headers={"x-request-timeout": fine})
                assert answer.status_code == 200

    asyncio.run(run())


def test_a_thousand_clients_that_hang_up_leave_no_slot_taken(make_engine):
    held = Held(make_engine(max_waiting=1024))

    async def hang_up(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw(b"{}"))
        await writer.drain()
        gone.append(writer)

    async def run() -> None:
        async with served(held.engine) as port:
            for _ in range(10):
                await asyncio.gather(*(hang_up(port) for _ in range(100)))
            while held.engine.waiting < 1000:
                await asyncio.sleep(0.01)
            for writer in gone:
                writer.close()
            running = 8  # at most what one batch holds
            while held.engine.waiting > max(running, held.engine.hands.sampler.largest_bucket):
                await asyncio.sleep(0.01)
            held.go.set()
            while held.engine.waiting:
                await asyncio.sleep(0.01)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert (await client.post(PATH, json={"n": 4})).status_code == 200
            assert len(held.made) < 100, "nothing is made for clients that have gone"

    gone: list[asyncio.StreamWriter] = []
    asyncio.run(run())


def test_a_body_that_trickles_in_is_408_and_an_early_end_of_it_harms_nobody(make_engine):
    async def run() -> None:
        async with served(make_engine(), Terms(body_timeout_s=0.3)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(raw(b"{}", "connection: close")[:-1])  # a byte never comes
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_slow"
            writer.close()
            _, other = await asyncio.open_connection("127.0.0.1", port)
            other.write(raw(b"{}")[:-1])
            await other.drain()
            other.close()
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert (await client.post(PATH, json={})).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("client", "start", "status"),
    [
        ("127.0.0.1", "t={:.0f}", 504),
        ("::1", "{:.0f}", 504),
        ("10.0.0.7", "t={:.0f}", 200),  # another machine's clock is not asked
        ("127.0.0.1", "t=soon", 200),
        ("127.0.0.1", "t=1", 200),
        ("127.0.0.1", "t=nan", 200),
        ("127.0.0.1", "t=9e99", 200),
    ],
)
def test_a_deadline_counts_from_when_the_proxy_had_the_request(make_engine, client, start, status):
    async def run() -> None:
        application = create_app(Shelf([make_engine()]), Terms())
        transport = httpx.ASGITransport(application, client=(client, 5000))
        came = 1e3 * (time.time() - 20)
        headers = {"x-request-timeout": "15", "x-request-start": start.format(came)}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
            answer = await asking.post(PATH, json={"n": 1}, headers=headers)
        assert answer.status_code == status
        late = answer.json().get("error", {}).get("code") == "deadline_exceeded"
        assert late == (status == 504)

    asyncio.run(run())


def test_a_body_that_announces_too_much_is_refused_before_it_comes(make_engine):
    async def run() -> None:
        async with served(make_engine()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = raw(b"").replace(b"content-length: 0", b"content-length: %d")
            writer.write(head % (MAX_BODY_BYTES + 1))  # and no byte of it
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
            writer.close()

    asyncio.run(run())


def test_answers_say_what_pictures_took_and_give_the_request_its_id_back(make_engine):
    async def run() -> None:
        async with client_of(make_engine()) as client:
            answer = await client.post(PATH, json={"n": 40}, headers={"x-request-id": "a-1:b/2"})
            assert answer.headers["x-request-id"] == "a-1:b/2"
            stages = re.fullmatch(
                r"queue;dur=([\d.]+), forward;dur=([\d.]+), encode;dur=([\d.]+)",
                answer.headers["server-timing"],
            )
            assert stages is not None
            assert float(stages[2]) > 0
            for bad in ("", "x" * 129, "a b", 'a"b', "a,b", "\xe9"):
                headers = {"x-request-id": bad.encode("latin-1")}
                refused = await client.post(PATH, json={"n": 0}, headers=headers)
                assert re.fullmatch(r"[0-9a-f]{32}", refused.headers["x-request-id"])
                assert "server-timing" not in refused.headers
            named = create_app(Shelf([make_engine()]), Terms(server_names_requests=True))
            transport = httpx.ASGITransport(named)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as other:
                assert "x-request-id" not in (await other.get("/livez")).headers

    asyncio.run(run())


def test_the_access_log_has_a_line_of_json_for_each_request_and_no_secrets(make_engine, caplog):
    async def run(terms: Terms) -> None:
        async with client_of(make_engine(max_waiting=40), terms) as client:
            secret = {"authorization": "Bearer secret", "x-request-id": "one"}
            body = {"n": 3, "user": "secret", "prompt": "sneaker"}
            await client.post(f"{PATH}?key=secret", json=body, headers=secret)
            await client.post(PATH, json={"n": 41})
            await client.get("/v1/models/secret-not"[:14])
            await client.get("/" + "x" * 5000)

    caplog.set_level(logging.INFO, ACCESS_LOG)
    asyncio.run(run(Terms()))
    assert not caplog.messages, "it is off unless it is turned on"
    asyncio.run(run(Terms(access_log=True)))
    assert "secret" not in "".join(caplog.messages).replace("/v1/models/secr", "")
    made, full, unknown, long = map(json.loads, caplog.messages)
    assert made.pop("time").endswith("+00:00")
    assert made.pop("ms") >= made["queue_ms"] + made["forward_ms"] + made["encode_ms"] - 0.1
    assert made.pop("bytes") > 100
    assert {name: made[name] for name in made if not name.endswith("_ms")} == {
        "request_id": "one",
        "method": "POST",
        "path": PATH,
        "status": 200,
        "model": "fashion",
        "digest": "d" * 12,
        "pictures": 3,
    }
    assert (full["status"], full["reason"], full["model"]) == (429, "queue_full", "fashion")
    assert (unknown["status"], unknown["reason"]) == (404, "model_not_found")
    assert len(long["path"]) == 200


@pytest.mark.parametrize("count", [1, 40])
def test_a_stream_that_is_read_to_its_end_is_no_hang_up(make_engine, caplog, count):
    async def run() -> None:
        engine, terms = make_engine(), Terms(access_log=True)
        async with served(engine, terms) as port, httpx.AsyncClient() as client:
            body = {"n": count, "stream": True}
            answer = await client.post(f"http://127.0.0.1:{port}{PATH}", json=body)
            assert answer.text.count("event: image_generation.completed") == count
            assert "server-timing" not in answer.headers, "it left before that was known"
            while not caplog.messages:
                await asyncio.sleep(0.01)

    caplog.set_level(logging.INFO, ACCESS_LOG)
    asyncio.run(run())
    (line,) = map(json.loads, caplog.messages)
    assert (line["status"], line.get("reason"), line["pictures"]) == (200, None, count)


def test_a_film_takes_the_time_of_its_encoding(make_engine, monkeypatch):
    def slowly(*_: object) -> bytes:
        time.sleep(0.1)
        return b"GIF89a"

    async def run() -> float:
        monkeypatch.setattr("distgen.serving.making.engine.animate", slowly)
        async with client_of(make_engine()) as client:
            way = {"seed": 1, "interpolate": {"to": 2, "steps": 4}, "output_format": "gif"}
            answer = await client.post(PATH, json=way)
            assert answer.status_code == 200, answer.text
            return float(answer.headers["server-timing"].rpartition("dur=")[2])

    assert asyncio.run(run()) >= 100


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("0", False), ("", False)])
def test_the_environment_turns_the_access_log_on(value, wanted):
    assert wants_access_log({"DISTGEN_ACCESS_LOG": value}) is wanted
    assert not wants_access_log({})


def test_a_request_is_a_span_below_its_callers_with_what_it_took(make_engine, monkeypatch):
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    trace_id, parent_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

    async def run() -> None:
        async with client_of(make_engine()) as client:
            caller = {"traceparent": f"00-{trace_id}-{parent_id}-01"}
            await client.post(PATH, json={"n": 2}, headers=caller)
            await client.get("/v1/models/nobody's", headers={"traceparent": "nonsense"})

    asyncio.run(run())
    ours = [span for span in spans.get_finished_spans() if "distgen.request_id" in span.attributes]
    made, unknown = ours
    assert made.name == f"POST {PATH}"
    assert f"{made.context.trace_id:032x}" == trace_id
    assert f"{made.parent.span_id:016x}" == parent_id
    assert made.attributes["distgen.pictures"] == 2
    assert made.attributes["http.response.status_code"] == 200
    assert made.attributes["distgen.forward_s"] > 0
    assert unknown.parent is None
    assert unknown.name == "GET /v1/models/{name}"
    assert unknown.attributes["error.type"] == "model_not_found"


def test_nobody_is_traced_where_nobody_collects(monkeypatch, caplog):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    assert Tracing.find({}) is None
    assert Tracing.find({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) is None
    assert "exporter" in caplog.text, "the package that is missing is named"
