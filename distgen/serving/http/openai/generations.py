"""`POST /v1/images/generations`."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from distgen.serving.http.body import read_body
from distgen.serving.http.errors import answer_of
from distgen.serving.http.openai.fields import ImagesRequest, parse_request
from distgen.serving.http.openai.planning import Plan, plan
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.shelf import Shelf

PATH = "/v1/images/generations"
DIGEST_HEADER = "x-distgen-digest"

_BODY_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": ImagesRequest.model_json_schema(),
                "example": {"prompt": "random", "n": 4, "seed": 7},
            }
        },
    }
}


class Generations:
    """Answers requests for pictures. Bodies are checked by hand, so that they have a limit and
    their errors the API's shape.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def add_routes(self, app: FastAPI) -> None:
        """Add the route, for its errors and its place in the documentation."""
        app.add_api_route(
            PATH,
            self.answer,
            methods=["POST"],
            description="Pictures of a class, or of classes drawn at random.",
            openapi_extra=_BODY_SCHEMA,
        )

    def before(self, app: ASGIApp) -> ASGIApp:
        """`app`, with this route before it.

        The layers of a web framework cost as much as a picture; this one request skips them.
        """

        async def images_first(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
                response = await self.answer(Request(scope, receive))
                await response(scope, receive, send)
            else:
                await app(scope, receive, send)

        return images_first

    async def answer(self, request: Request) -> Response:
        """Pictures, or the reason why not; never raises."""
        try:
            return await self._generate(await read_body(request))
        except Exception as error:
            return await answer_of(request, error)

    async def _generate(self, body: bytes) -> Response:
        wanted = parse_request(body)
        async with self._shelf.lend(wanted.model) as engine:
            info = engine.info
            planned = plan(wanted, info, fresh_seed=secrets.randbits(53))
            files = await engine.generate(planned.pictures, planned.encoding)
        encoded = [base64.b64encode(file).decode("ascii") for file in files]
        answer = response_body(planned, encoded, info, created=int(time.time()))
        content = json.dumps(answer, separators=(",", ":"))
        headers = {DIGEST_HEADER: info.digest}
        return Response(content, media_type="application/json", headers=headers)


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
    for picture, text in zip(request_plan.pictures, encoded, strict=True):
        image: dict[str, Any] = (
            {"url": f"data:image/{output_format};base64,{text}"}
            if request_plan.as_url
            else {"b64_json": text}
        )
        image["seed"] = picture.seed
        if picture.label is not None:
            image["label"] = picture.label
            image["revised_prompt"] = info.classes[picture.label]
        data.append(image)
    moving: dict[str, int] = (
        {} if info.spec.frames is None else {"frame_rate": request_plan.encoding.rate}
    )
    return {
        "created": created,
        "data": data,
        "output_format": output_format,
        **moving,
        "size": info.size,
        "model": info.name,
        "digest": info.digest,
    }
