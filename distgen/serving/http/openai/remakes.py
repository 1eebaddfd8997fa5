"""`POST /v1/images/variations` and `POST /v1/images/edits`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from distgen.serving.http.body import read_body
from distgen.serving.http.errors import FOR_PICTURES, RequestError, documented
from distgen.serving.http.multipart import MAX_UPLOAD_BYTES, read_form
from distgen.serving.http.openai.answering import STREAMED, respond
from distgen.serving.http.openai.forms import EditForm, VariationForm, read_fields, schema
from distgen.serving.http.openai.planning import Plan, plan_remakes
from distgen.serving.http.openai.uploads import Upload, read_edit, read_picture
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.shelf import Shelf

VARIATIONS = "/v1/images/variations"
EDITS = "/v1/images/edits"

_AT_ONCE = 2  # pictures that are decoded: each may take a hundred megabytes


class Remakes:
    """Answers requests that bring a picture."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._decoding = asyncio.Semaphore(_AT_ONCE)

    def add_routes(self, app: FastAPI) -> None:
        """Add both routes."""
        for path, answer, described in (
            (VARIATIONS, self.vary, schema(VariationForm, "image")),
            (EDITS, self.edit, schema(EditForm, "image", "mask")),
        ):
            app.add_api_route(
                path,
                answer,
                methods=["POST"],
                openapi_extra=described,
                responses=STREAMED | documented(*FOR_PICTURES),
            )

    async def vary(self, request: Request) -> Response:
        """Pictures that keep a part of what the given one shows."""
        parts = await self._parts(request)
        wanted = read_fields(VariationForm, parts, ("image",))
        return await self._remake(
            request, wanted, "variations", lambda info: read_picture(parts["image"], info.spec)
        )

    async def edit(self, request: Request) -> Response:
        """The given picture, made anew where its mask, or itself, has alpha 0."""
        parts = await self._parts(request)
        wanted = read_fields(EditForm, parts, ("image", "mask"))
        return await self._remake(
            request,
            wanted,
            "edits",
            lambda info: read_edit(parts["image"], parts.get("mask"), info.spec),
        )

    async def _parts(self, request: Request) -> dict[str, bytes]:
        body = await read_body(request, MAX_UPLOAD_BYTES)
        parts = read_form(request.headers.get("content-type"), body)
        if "image[]" in parts and "image" not in parts:  # so clients send a list of one
            parts["image"] = parts.pop("image[]")
        if "image" not in parts:
            raise RequestError(
                "There is no image. Send one as a file called 'image'.", param="image"
            )
        return parts

    async def _remake(
        self,
        request: Request,
        wanted: VariationForm | EditForm,
        capability: str,
        read: Callable[[ModelInfo], Upload],
    ) -> Response:
        async def prepare(info: ModelInfo) -> Plan:
            async with self._decoding:
                upload = await asyncio.to_thread(read, info)
            return plan_remakes(wanted, upload, info, fresh_seed=secrets.randbits(53))

        return await respond(request, self._shelf, wanted.model, (capability,), prepare)
