"""The official OpenAI clients, of Python and of Node, against a real HTTP server."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

from distgen.serving.http.app import create_app
from distgen.serving.making.shelf import Shelf
from tests.unit.serving.http.test_remakes import HOLE, IMAGE, MASK, PIXELS
from tests.unit.serving.servers import served

SCRIPT = Path(__file__).with_name("openai_client.mjs")


@pytest.fixture(scope="module")
def url(make_engine) -> Iterator[str]:
    with served(create_app(Shelf([make_engine("vae")]))) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"{url}/v1") as client:
        yield client


def pixels_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_python_client_streams_the_pictures_it_would_get_at_once(client):
    whole = client.images.generate(prompt="random", n=3, extra_body={"seed": 7})
    stream = client.images.generate(prompt="random", n=3, stream=True, extra_body={"seed": 7})
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.completed"] * 3
    assert [event.b64_json for event in events] == [image.b64_json for image in whole.data]
    assert events[0].usage.total_tokens == 0


def test_python_client_edits_and_streams_edits(client):
    files = {"image": ("a.png", IMAGE), "mask": ("m.png", MASK)}
    edited = client.images.edit(**files, prompt="random", n=2, extra_body={"seed": 7})
    for image in edited.data:
        np.testing.assert_array_equal(pixels_of(image.b64_json)[~HOLE], PIXELS[~HOLE])
    stream = client.images.edit(**files, prompt="random", n=2, stream=True, extra_body={"seed": 7})
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.completed"] * 2
    assert [event.b64_json for event in events] == [image.b64_json for image in edited.data]
    listed = client.images.edit(
        image=[("a.png", IMAGE)], mask=("m.png", MASK), prompt="", extra_body={"seed": 7}
    )
    assert listed.data[0].b64_json == edited.data[0].b64_json


def test_python_client_varies(client):
    varied = client.images.create_variation(
        image=("a.png", IMAGE), n=2, extra_body={"seed": 7, "strength": 0.2}
    )
    assert len({image.b64_json for image in varied.data}) == 2
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.create_variation(image=("a.png", b"no picture"))
    assert (bad.value.code, bad.value.param) == ("invalid_image", "image")


def test_python_client_tries_again_after_429(make_engine):
    engine = make_engine(max_waiting=20)
    entered, go = threading.Event(), threading.Event()
    sample = engine.hands.sampler.sample

    def slowly(pictures):
        entered.set()
        go.wait()
        return sample(pictures)

    engine.hands.sampler.sample = slowly
    statuses: list[int] = []

    def note(response) -> None:
        statuses.append(response.status_code)
        go.set()  # there is room by the time of the second try

    def client_of(url: str) -> openai.OpenAI:
        return openai.OpenAI(api_key="none", base_url=f"{url}/v1")

    with served(create_app(Shelf([engine]))) as url, client_of(url) as one, client_of(url) as two:
        waiting = threading.Thread(target=lambda: one.images.generate(prompt="", n=20))
        waiting.start()
        entered.wait()
        two._client.event_hooks = {"response": [note]}
        assert len(two.images.generate(prompt="", n=5).data) == 5
        waiting.join()
    assert statuses[0] == 429
    assert statuses[-1] == 200


def test_npm_client_generates_streams_edits_and_varies(url, client, tmp_path: Path):
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=True)
    packages = root.stdout.strip()
    if not Path(packages, "openai").is_dir():
        pytest.skip("the npm package openai is not installed: npm install -g openai")
    (tmp_path / "image.png").write_bytes(IMAGE)
    (tmp_path / "mask.png").write_bytes(MASK)
    command = [node, SCRIPT, packages, url, tmp_path / "image.png", tmp_path / "mask.png"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    body = {"seed": 7}
    whole = client.images.generate(prompt="random", n=3, extra_body=body)
    assert found["generated"] == found["streamed"] == [image.b64_json for image in whole.data]
    edited = client.images.edit(
        image=("a.png", IMAGE), mask=("m.png", MASK), prompt="random", n=2, extra_body=body
    )
    assert found["edited"] == [image.b64_json for image in edited.data]
    varied = client.images.create_variation(image=("a.png", IMAGE), n=2, extra_body=body)
    assert found["varied"] == [image.b64_json for image in varied.data]
    assert found["refused"] == ["BadRequestError", 400, "unknown_parameter", "sede"]
    assert found["models"] == ["fashion"]
