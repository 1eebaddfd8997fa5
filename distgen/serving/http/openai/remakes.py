"""`POST /v1/images/variations` and `POST /v1/images/edits`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from fastapi import FastAPI, Request, Response

from distgen.core.spec import ImageSpec
from distgen.serving.http.body import read_body
from distgen.serving.http.errors import FOR_PICTURES, RequestError, documented
from distgen.serving.http.multipart import MAX_UPLOAD_BYTES, read_form
from distgen.serving.http.openai.answering import STREAMED, respond
from distgen.serving.http.openai.forms import EditForm, Form, VariationForm, read_fields, schema
from distgen.serving.http.openai.planning import Plan, new_seed, plan_remakes
from distgen.serving.http.openai.uploads import Upload, read_edit, read_picture
from distgen.serving.making.account import DeadlineError, current, in_time
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.shelf import Shelf

VARIATIONS = "/v1/images/variations"
EDITS = "/v1/images/edits"

MOST_CARRIED_BYTES = 256 << 20
"""Of uploads that have arrived and are not decoded yet."""

_AT_ONCE = 2  # pictures that are decoded: each may take a hundred megabytes
Parts = dict[str, bytes]


class Remakes:
    """Answers requests that bring a picture."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._decoding = asyncio.Semaphore(_AT_ONCE)
        self._carried = _Carried()

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
        return await self._remake(
            request,
            VariationForm,
            ("image",),
            "variations",
            lambda parts, spec: read_picture(parts["image"], spec),
        )

    async def edit(self, request: Request) -> Response:
        """The given picture, made anew where its mask, or itself, has alpha 0."""
        return await self._remake(
            request,
            EditForm,
            ("image", "mask"),
            "edits",
            lambda parts, spec: read_edit(parts["image"], parts.get("mask"), spec),
        )

    async def _parts(self, request: Request, arrived: Callable[[int], None]) -> Parts:
        body = await read_body(request, MAX_UPLOAD_BYTES, arrived)
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
        form: type[Form],
        files: tuple[str, ...],
        capability: str,
        read: Callable[[Parts, ImageSpec], Upload],
    ) -> Response:
        load = _Load(self._carried)
        try:
            parts = await self._parts(request, load.add)
            wanted = read_fields(form, parts, files)

            async def prepare(info: ModelInfo) -> Plan:
                upload = await self._decoded(partial(read, parts, info.spec), load)
                parts.clear()
                return plan_remakes(wanted, upload, info, new_seed)

            needs = (capability,)
            return await respond(
                request, self._shelf, wanted.model, needs, prepare, least=wanted.n or 1
            )
        finally:
            if not load.is_handed_over:
                load.put_down()

    async def _decoded(self, read: Callable[[], Upload], load: _Load) -> Upload:
        """What a thread makes of an upload, which is carried until it has done so."""
        await in_time(self._decoding.acquire())
        try:
            current().require_time()
        except DeadlineError:
            self._decoding.release()
            raise
        load.is_handed_over = True
        reading = asyncio.get_running_loop().run_in_executor(None, read)

        def done(_: asyncio.Future[Upload]) -> None:
            if not reading.cancelled():
                reading.exception()  # seen, also where nobody waits any more
            self._decoding.release()
            load.put_down()

        reading.add_done_callback(done)
        # Whoever leaves cannot stop the thread, which needs its bytes until it is done.
        return await asyncio.shield(reading)


class _Carried:
    """How many bytes of uploads are in memory."""

    size = 0


class _Load:
    """Those of one request."""

    def __init__(self, carried: _Carried) -> None:
        self.is_handed_over = False
        """Whether somebody else puts it down."""
        self._carried = carried
        self._size = 0

    def add(self, size: int) -> None:
        """Some more have come.

        Raises:
            RequestError: There are too many of others already.
        """
        if self._carried.size + size > MOST_CARRIED_BYTES:
            raise RequestError(
                "Too many pictures are being uploaded. Try again in 1 s, or serve more replicas.",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                code="queue_full",
                retry_after_s=1,
            )
        self._carried.size += size
        self._size += size

    def put_down(self) -> None:
        """They are gone."""
        self._carried.size -= self._size
        self._size = 0
