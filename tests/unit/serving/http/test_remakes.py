"""Variations and edits over HTTP: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import threading
import zlib
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distgen.core.spec import ImageSpec
from distgen.serving.http.app import create_app
from distgen.serving.http.multipart import MAX_PARTS, MAX_UPLOAD_BYTES
from distgen.serving.http.openai import remakes
from distgen.serving.http.openai.remakes import EDITS, VARIATIONS
from distgen.serving.making.engine import Engine
from distgen.serving.making.shelf import Shelf
from tests.unit.serving.http.test_ways import ask

PIXELS = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
HOLE = np.zeros((28, 28), bool)
HOLE[5:20, 8:15] = True


def file_of(pixels: np.ndarray, fmt: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, fmt, **options)
    return out.getvalue()


def mask_of(hole: np.ndarray) -> bytes:
    rgba = np.zeros((*hole.shape, 4), np.uint8)
    rgba[..., 3] = np.where(hole, 0, 255)
    return file_of(rgba)


def png_that_claims(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


IMAGE, MASK = file_of(PIXELS), mask_of(HOLE)


def post(engines: list[Engine], path: str, data: Any = None, files: Any = None, **more: Any) -> Any:
    async def how(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(path, data=data, files=files, **more)

    return ask(engines, how)


def pixels_of(response: httpx.Response) -> list[np.ndarray]:
    assert response.status_code == 200, response.text
    files = [base64.b64decode(image["b64_json"]) for image in response.json()["data"]]
    return [np.asarray(Image.open(io.BytesIO(file))) for file in files]


@pytest.fixture(scope="module")
def vae(make_engine) -> Any:
    return lambda: make_engine("vae")


def test_variations_come_back_by_their_seeds(vae):
    async def how(client: httpx.AsyncClient) -> None:
        files = {"image": ("../../x.exe", IMAGE, "text/html")}  # neither is believed
        first = await client.post(VARIATIONS, data={"n": "3", "strength": "0.6"}, files=files)
        made = pixels_of(first)
        assert len({one.tobytes() for one in made}) == 3
        for image, pixels in zip(first.json()["data"], made, strict=True):
            data = {"seed": str(image["seed"]), "strength": "0.6"}
            again = await client.post(VARIATIONS, data=data, files=files)
            np.testing.assert_array_equal(pixels_of(again)[0], pixels)

    ask([vae()], how)


def test_edits_keep_the_known_pixels_exactly(vae):
    files = {"image": IMAGE, "mask": MASK}
    made = pixels_of(post([vae()], EDITS, {"n": "2", "seed": "7"}, files))
    for one in made:
        np.testing.assert_array_equal(one[~HOLE], PIXELS[~HOLE])
        assert (one[HOLE] != PIXELS[HOLE]).any()
    assert (made[0] != made[1]).any()


def test_without_a_mask_the_transparency_of_the_image_is_the_mask(vae):
    grey = np.repeat(PIXELS[..., None], 3, axis=2)
    rgba = np.dstack([grey, np.where(HOLE, 0, 255).astype(np.uint8)])
    (made,) = pixels_of(post([vae()], EDITS, {"seed": "7"}, {"image": file_of(rgba)}))
    with_mask = post([vae()], EDITS, {"seed": "7"}, {"image": IMAGE, "mask": MASK})
    np.testing.assert_array_equal(made, pixels_of(with_mask)[0])


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_any_size_and_mode_are_brought_to_the_models(vae, fmt):
    large = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    data = {"seed": "1", "size": "auto"}
    (made,) = pixels_of(post([vae()], VARIATIONS, data, {"image": file_of(large, fmt)}))
    assert made.shape == (28, 28)
    # The mask is cut and scaled as the picture is.
    hole = np.zeros((60, 90), bool)
    hole[:, 40:50] = True
    files = {"image": file_of(large, fmt), "mask": mask_of(hole)}
    first, second = (
        pixels_of(post([vae()], EDITS, {"seed": seed}, files))[0] for seed in ("1", "2")
    )
    columns = np.flatnonzero((first != second).any(0))
    assert 10 <= columns.min() <= columns.max() <= 17


def test_what_exif_says_of_orientation_is_not_followed(vae):
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        pixels_of(post([vae()], VARIATIONS, {"seed": "1", "strength": "0"}, {"image": data}))[0]
        for data in (IMAGE, file_of(PIXELS, exif=exif))
    ]
    np.testing.assert_array_equal(*made)


def test_edits_stream(vae):
    data = {"n": "2", "seed": "7", "stream": "true"}
    response = post([vae()], EDITS, data, {"image": IMAGE, "mask": MASK})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.count("event: image_edit.completed\n") == 2


def test_a_model_that_cannot_says_which_can(make_engine, vae):
    for path, files in ((VARIATIONS, {"image": IMAGE}), (EDITS, {"image": IMAGE, "mask": MASK})):
        able = vae()
        able.info = replace(able.info, name="able")
        alone = post([make_engine()], path, {}, files)
        assert alone.status_code == 400
        assert alone.json()["error"]["code"] == "unsupported_by_model"
        assert "a VAE of pictures could" in alone.json()["error"]["message"]

        async def how(client: httpx.AsyncClient) -> None:
            beside = await client.post(path, files=files)  # noqa: B023 - called in this round
            assert "Use the model 'able'" in beside.json()["error"]["message"]
            fine = await client.post(path, data={"model": "able"}, files=files)  # noqa: B023
            assert fine.status_code == 200

        ask([make_engine(), able], how)


WRONG_FIELDS = [
    (VARIATIONS, {"n": "0"}, "n", "1 to 32"),
    (VARIATIONS, {"n": "33"}, "n", "1 to 32"),
    (VARIATIONS, {"n": "two"}, "n", "1 to 32"),
    (VARIATIONS, {"strength": "1.5"}, "strength", "less than or equal to 1"),
    (VARIATIONS, {"strength": "nan"}, "strength", "finite"),
    (VARIATIONS, {"strenght": "0.5"}, "strenght", "did you mean 'strength'"),
    (VARIATIONS, {"seed": "-1"}, "seed", "from 0 to"),
    (VARIATIONS, {"seed": str(2**63)}, "seed", "from 0 to"),
    (VARIATIONS, {"size": "1024x1024"}, "size", "'28x28'"),
    (VARIATIONS, {"output_format": "gif"}, "output_format", "'png'"),
    (VARIATIONS, {"stream": "true"}, "stream", "no field"),
    (EDITS, {"prompt": "a cat"}, "prompt", "'random'"),
    (EDITS, {"partial_images": "1"}, "partial_images", "whole pictures"),
    (EDITS, {"latents": "[0]"}, "latents", "no field"),
    (EDITS, {"seed": b"\xff\xfe"}, "seed", "UTF-8"),
]


@pytest.mark.parametrize(("path", "data", "param", "says"), WRONG_FIELDS)
def test_wrong_fields_name_themselves(vae, path, data, param, says):
    files = {"image": IMAGE, "mask": MASK} if path == EDITS else {"image": IMAGE}
    response = post([vae()], path, data, files)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert says in error["message"]


WRONG_PICTURES = {
    "nothing": (b"", None, "not a whole picture"),
    "text": (b"https://example.org/cat.png", None, "nothing is fetched"),
    "gif": (file_of(PIXELS, "GIF"), None, "PNG, WebP or JPEG"),
    "cut": (IMAGE[: len(IMAGE) // 2], None, "not a whole picture"),
    "bomb": (png_that_claims(60_000, 60_000), None, "at most 16777216 pixels"),
    "large": (png_that_claims(5000, 5000), None, "at most 16777216 pixels"),
    "empty-bomb": (png_that_claims(4000, 4000), None, "not a whole picture"),
    "mask-size": (IMAGE, mask_of(np.ones((30, 28), bool)), "of the image's size"),
    "mask-alpha": (IMAGE, IMAGE, "no alpha channel"),
    "mask-opaque": (IMAGE, mask_of(np.zeros((28, 28), bool)), "nowhere transparent"),
    "mask-cut": (IMAGE, MASK[:60], "The mask is not a whole picture"),
    "no-mask": (IMAGE, None, "no alpha channel"),
}


@pytest.mark.parametrize("name", WRONG_PICTURES)
def test_what_is_no_picture_or_mask_is_refused(vae, name):
    image, mask, says = WRONG_PICTURES[name]
    files = {"image": image} if mask is None else {"image": image, "mask": mask}
    response = post([vae()], EDITS, {}, files)
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]["message"]


def part(name: str, data: bytes = b"1") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"; filename="x"'.encode()
    return b"--cut\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


FORM = "multipart/form-data; boundary=cut"
WRONG_FORMS = {
    "json": ("application/json", b'{"image": "https://example.org"}', "not a form"),
    "urlencoded": ("application/x-www-form-urlencoded", b"image=1", "not a form"),
    "no-type": ("", b"", "not a form"),
    "no-boundary": ("multipart/form-data", part("image") + b"--cut--", "no boundary"),
    "long-boundary": (f"multipart/form-data; boundary={'x' * 71}", b"", "no boundary"),
    "other-boundary": ("multipart/form-data; boundary=x", part("image") + b"--cut--", "no end"),
    "no-end": (FORM, part("image"), "no end"),
    "half-a-part": (FORM, part("image")[:30], "no end"),
    "empty": (FORM, b"", "no end"),
    "no-parts": (FORM, b"--cut--", "no image"),
    "no-name": (FORM, b"--cut\r\nContent-Type: a\r\n\r\n1\r\n--cut--", "no name"),
    "no-head": (FORM, b"--cut\r\n\r\n1\r\n--cut--", "no name"),
    "no-line": (FORM, b"--cut\r\nabc\r\n--cut--", "no end of its headers"),
    "binary-head": (FORM, b"--cut\r\n\xff: a\r\n\r\n1\r\n--cut--", "not UTF-8"),
    "twice": (FORM, part("image") + part("image") + b"--cut--", "two parts"),
    "many": (
        FORM,
        b"".join(part(f"p{i}") for i in range(MAX_PARTS + 1)) + b"--cut--",
        "more than 32 parts",
    ),
    "no-image": (FORM, part("seed") + b"--cut--", "no image"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FORMS)
def test_what_is_no_form_is_refused(vae, name):
    content_type, body, says = WRONG_FORMS[name]
    response = post([vae()], EDITS, content=body, headers={"content-type": content_type})
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]["message"]


def test_more_uploads_than_memory_is_meant_for_are_429(vae, monkeypatch):
    monkeypatch.setattr(remakes, "MOST_CARRIED_BYTES", 20_000)
    reading, go_on = threading.Semaphore(0), threading.Event()
    read = remakes.read_picture

    def held(data: bytes, spec: ImageSpec) -> remakes.Upload:
        reading.release()
        assert go_on.wait(30)
        return read(data, spec)

    monkeypatch.setattr(remakes, "read_picture", held)

    async def how(client: httpx.AsyncClient) -> None:
        padded = {"image": IMAGE + bytes(12_000)}
        first = asyncio.create_task(client.post(VARIATIONS, data={"n": "1"}, files=padded))
        await asyncio.to_thread(reading.acquire)
        second = await client.post(VARIATIONS, data={"n": "1"}, files=padded)
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.post(VARIATIONS, files=padded)).status_code == 200

    ask([vae()], how)


def test_uploads_for_which_nobody_waits_any_more_are_not_decoded(vae, monkeypatch):
    reading, go_on, decoded = threading.Semaphore(0), threading.Event(), []
    read = remakes.read_picture

    def held(data: bytes, spec: ImageSpec) -> remakes.Upload:
        decoded.append(1)
        reading.release()
        assert go_on.wait(30)
        return read(data, spec)

    monkeypatch.setattr(remakes, "read_picture", held)

    async def how(client: httpx.AsyncClient) -> None:
        async def vary(**headers: str) -> httpx.Response:
            return await client.post(VARIATIONS, files={"image": IMAGE}, headers=headers)

        busy = [asyncio.create_task(vary()) for _ in range(2)]
        for _ in busy:
            await asyncio.to_thread(reading.acquire)
        late = await vary(**{"x-request-timeout": "0.05"})
        assert late.status_code == 504
        go_on.set()
        assert [(await one).status_code for one in busy] == [200, 200]

    ask([vae()], how)
    assert len(decoded) == 2


def test_a_body_that_is_too_large_is_refused(vae):
    response = post([vae()], VARIATIONS, {}, {"image": b"x" * MAX_UPLOAD_BYTES})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


@pytest.fixture(scope="module")
def shared(make_engine) -> Engine:
    return make_engine("vae")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mangled_forms_are_never_a_fault_of_the_server(shared, data):
    body = part("image", IMAGE) + part("mask", MASK) + part("seed") + b"--cut--\r\n"
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        gone = data.draw(st.sampled_from([0, 1, 7, 200]))
        body = body[:at] + data.draw(st.binary(max_size=6)) + body[at + gone :]

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(Shelf([shared])), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(EDITS, content=body, headers={"content-type": FORM})

    response = asyncio.run(run())
    assert response.status_code in (200, 400), response.text
