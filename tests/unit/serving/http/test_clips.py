"""Clips over HTTP: what a client gets, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from distgen.cli.query import _shown
from distgen.core.spec import ImageSpec
from distgen.metrics.animation import animate, frames_of
from distgen.serving.client import Client
from distgen.serving.http.app import create_app
from distgen.serving.making.encode import encode
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.sampler import Picture, Sampler
from distgen.serving.making.shelf import Shelf
from tests.unit.clip_models import SPEC, tiny_model
from tests.unit.serving.making.here import engine_here

INFO = ModelInfo("clips", "d" * 64, "rvae", SPEC, num_classes=0, created=0)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(tiny_model(), SPEC)


def test_a_clip_depends_on_its_seed_and_not_on_its_neighbours(sampler: Sampler):
    both = sampler.sample([Picture(seed) for seed in range(20)])
    assert both.shape == (20, 6, 16, 16, 1)
    np.testing.assert_array_equal(sampler.sample([Picture(7)])[0], both[7])
    assert not np.array_equal(both[0], both[1])
    assert max(sampler.buckets) <= 16


@pytest.mark.parametrize("fmt", ["gif", "webp"])
def test_each_clip_is_a_file_of_its_own(fmt):
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8, 1), dtype=np.uint8)
    files = encode(clips, fmt, rate=20)
    for clip, file in zip(clips, files, strict=True):
        np.testing.assert_array_equal(frames_of(file, 20), clip)


def test_a_model_says_that_it_makes_clips():
    engine = engine_here(tiny_model(), INFO)

    async def ask() -> dict[str, object]:
        transport = httpx.ASGITransport(app=create_app(Shelf([engine])))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.get("/v1/models/clips")
        await engine.close()
        return answer.json()

    assert asyncio.run(ask())["frames"] == 6


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({"output_format": "gif"}, "output_format", "makes single pictures. Use 'png' or 'webp'"),
        ({"frame_rate": 10}, "frame_rate", "frame_rate is for clips"),
        ({"frame_rate": 0}, "frame_rate", "greater than or equal to 1"),
    ],
)
def test_a_model_of_pictures_refuses_what_is_for_clips(make_engine, body, param, text):
    engine = make_engine()

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(Shelf([engine])))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/v1/images/generations", content=json.dumps(body))
        await engine.close()
        return answer

    answer = asyncio.run(ask())
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert text in answer.json()["error"]["message"]


@pytest.mark.parametrize("rate", [10, 25])
def test_the_client_gives_back_frames(monkeypatch: pytest.MonkeyPatch, rate: int):
    grey = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    grey[2] = grey[1]  # a frame that is stored as none of its own
    colour = np.zeros((4, 8, 8, 3), np.uint8)
    colour[:, :, :, 0] = 200
    body = {
        "data": [
            {"b64_json": base64.b64encode(animate(clip, "gif", rate)).decode(), "seed": 1}
            for clip in (grey, colour)
        ],
        "model": "clips",
        "digest": "d",
        "frame_rate": rate,
    }
    monkeypatch.setattr(httpx, "request", lambda *_, **__: httpx.Response(200, json=body))
    answer = Client("http://127.0.0.1:1").generate(n=2)
    assert answer.images_nhwc.shape == (2, 4, 8, 8, 3)
    np.testing.assert_array_equal(answer.images_nhwc[0, ..., :1], grey)


@pytest.mark.parametrize(
    ("name", "fmt", "frames"), [("a.png", "PNG", 1), ("a.GIF", "GIF", 4), ("a.webp", "WEBP", 4)]
)
def test_a_query_saves_clips_as_the_name_says(name: str, fmt: str, frames: int):
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8, 1), dtype=np.uint8)
    with Image.open(io.BytesIO(_shown(clips, name))) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == (fmt, frames)
    with Image.open(io.BytesIO(_shown(clips[:, 0], name))) as image:  # one after the other
        assert (image.format, getattr(image, "n_frames", 1)) == (fmt, min(3, frames))


def test_clips_in_colour_are_made_too():
    spec = ImageSpec(height=16, width=16, mode="RGB", frames=3)
    info = replace(INFO, spec=spec)
    engine = engine_here(tiny_model(spec), info)
    assert engine.hands.sampler.sample([Picture(0)]).shape == (1, 3, 16, 16, 3)
