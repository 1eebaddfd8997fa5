"""`POST /v1/images/generations`."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from distgen.serving.http.bodies import inlined
from distgen.serving.http.body import read_body
from distgen.serving.http.errors import FOR_PICTURES, answer_of, documented
from distgen.serving.http.openai.answering import STREAMED, respond
from distgen.serving.http.openai.fields import ImagesRequest, parse_request
from distgen.serving.http.openai.planning import Plan, new_seed, plan
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.shelf import Shelf

PATH = "/v1/images/generations"

_BODY_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": inlined(ImagesRequest.model_json_schema()),
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
            responses=STREAMED | documented(*FOR_PICTURES),
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
            return await self._generate(request)
        except Exception as error:
            return await answer_of(request, error)

    async def _generate(self, request: Request) -> Response:
        wanted = parse_request(await read_body(request))

        async def prepare(info: ModelInfo) -> Plan:
            return plan(wanted, info, new_seed)

        needs = () if wanted.interpolate is None else ("interpolate",)
        least = wanted.n or len(wanted.class_labels or ()) or 1
        return await respond(request, self._shelf, wanted.model, needs, prepare, least)
