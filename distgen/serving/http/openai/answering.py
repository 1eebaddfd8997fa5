"""From what a request comes down to, to its answer: one JSON object, or a stream of events."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from distgen.serving.http.errors import RequestError, answer_of
from distgen.serving.http.openai.planning import Plan
from distgen.serving.making.engine import Engine, ModelInfo
from distgen.serving.making.shelf import Shelf

DIGEST_HEADER = "x-distgen-digest"
_REMADE = frozenset({"variations", "edits"})
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "text/event-stream": {}}}
}
"""What the OpenAPI document says of answers that may be events."""


async def respond(
    request: Request,
    shelf: Shelf,
    model: str | None,
    needs: Sequence[str],
    prepare: Callable[[ModelInfo], Awaitable[Plan]],
    least: int = 0,
) -> Response:
    """The answer with the pictures, or the first of them.

    Args:
        request: As it came.
        shelf: The models.
        model: Which of them is asked for; None: the first.
        needs: What it has to be capable of.
        prepare: What to make, given the model.
        least: Pictures that it comes down to at the least.

    Raises:
        RequestError: The model cannot do it, or `prepare` says no.
        UnknownModelError: There is no such model.
        QueueFullError: Too much is waiting.
    """
    loan = await shelf.borrow(model)
    with ExitStack() as stack:
        stack.callback(loan.give_back)
        engine, info = loan.engine, loan.engine.info
        for capability in needs:
            require(capability, info, shelf.models())
        engine.require_room(least, remade=not _REMADE.isdisjoint(needs))
        planned = await prepare(info)
        headers = {DIGEST_HEADER: info.digest}
        if not planned.is_stream:
            files = await _all(engine, planned)
            content = response_body(planned, [_text(file) for file in files], info, _now())
            data = json.dumps(content, separators=(",", ":"))
            return Response(data, media_type="application/json", headers=headers)
        # A client may take minutes to read what is made, and nobody else has to wait for that.
        events = _events(request, engine, planned, made=stack.pop_all().close)
        return _EventStream(await anext(events), events, headers)


def require(capability: str, info: ModelInfo, models: Sequence[ModelInfo]) -> None:
    """Refuse what a model cannot do.

    Args:
        capability: One of `ModelInfo.capabilities`.
        info: The model that was asked.
        models: All that are served.

    Raises:
        RequestError: It cannot; says which can.
    """
    if capability in info.capabilities:
        return
    able = [other.name for other in models if capability in other.capabilities]
    what = f"The model {info.name!r} ({info.family}) cannot make {capability}"
    if capability == "interpolate":
        what = f"The model {info.name!r} ({info.family}) cannot interpolate"
    remedy = (
        f"Use the model {' or '.join(map(repr, able))}."
        if able
        else "No model that is served here can; a VAE of pictures could."
    )
    raise RequestError(f"{what}. {remedy}", param="model", code="unsupported_by_model")


def response_body(
    request_plan: Plan, encoded: Sequence[str], info: ModelInfo, created: int
) -> dict[str, Any]:
    """The body of the answer.

    Args:
        request_plan: What was asked for.
        encoded: Each picture's file in base64.
        info: The model that made them.
        created: Unix time.
    """
    output_format = request_plan.encoding.format
    data: list[dict[str, Any]] = []
    for index, text in enumerate(encoded):
        image = (
            {"url": f"data:image/{output_format};base64,{text}"}
            if request_plan.as_url
            else {"b64_json": text}
        )
        data.append({**image, **_facts(request_plan, index, info)})
    return {
        "created": created,
        "data": data,
        "output_format": output_format,
        **_rate(request_plan, info),
        "size": info.size,
        "model": info.name,
        "digest": info.digest,
    }


async def _events(
    request: Request, engine: Engine, planned: Plan, made: Callable[[], None]
) -> AsyncGenerator[bytes]:
    """A `completed` event for each picture; what goes wrong after the first is an event, too."""
    kind = "image_edit" if request.url.path.endswith("/edits") else "image_generation"
    is_first = True
    try:
        async with aclosing(_as_they_come(engine, planned, made)) as files:
            async for index, file in files:
                yield _event(f"{kind}.completed", _completed(planned, index, file, engine.info))
                is_first = False
    except Exception as error:
        if is_first:
            raise
        yield _event("error", json.loads(bytes((await answer_of(request, error)).body)))


def _completed(planned: Plan, index: int, file: bytes, info: ModelInfo) -> dict[str, Any]:
    return {
        "b64_json": _text(file),
        "created_at": _now(),
        "background": "opaque",
        "quality": "auto",
        "output_format": planned.encoding.format,
        **_rate(planned, info),
        "size": info.size,
        "usage": _USAGE,
        "index": index,
        **_facts(planned, index, info),
        "model": info.name,
        "digest": info.digest,
    }


class _EventStream(StreamingResponse):
    """Server-sent events, with an end to what makes them however they end."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        events: AsyncGenerator[bytes],
        headers: dict[str, str],
    ) -> None:
        super().__init__(
            _with_first(first, events), HTTPStatus.OK, {"cache-control": "no-cache", **headers}
        )
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _with_first(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in events:
        yield event


async def _all(engine: Engine, planned: Plan) -> list[bytes]:
    if planned.is_film:
        return [await engine.film(planned.pictures, planned.encoding)]
    return await engine.generate(planned.pictures, planned.encoding)


async def _as_they_come(
    engine: Engine, planned: Plan, made: Callable[[], None]
) -> AsyncGenerator[tuple[int, bytes]]:
    if planned.is_film:
        try:
            film = await engine.film(planned.pictures, planned.encoding)
        finally:
            made()
        yield 0, film
        return
    async with aclosing(engine.stream(planned.pictures, planned.encoding, made)) as files:
        async for file in files:
            yield file


def _facts(planned: Plan, index: int, info: ModelInfo) -> dict[str, Any]:
    """What brings a picture back, and what it shows."""
    picture = planned.pictures[index]
    facts: dict[str, Any] = {"seed": picture.seed}
    if picture.label is not None:
        facts |= {"label": picture.label, "revised_prompt": info.classes[picture.label]}
    return facts


def _rate(planned: Plan, info: ModelInfo) -> dict[str, int]:
    is_moving = planned.is_film or info.spec.frames is not None
    return {"frame_rate": planned.encoding.rate} if is_moving else {}


_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Nothing here counts tokens; clients expect to read some."""


def _event(kind: str, content: dict[str, Any]) -> bytes:
    data = json.dumps({"type": kind, **content}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _text(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")


def _now() -> int:
    return int(time.time())
