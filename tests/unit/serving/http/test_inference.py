"""The Open Inference Protocol, asked by Triton's own clients and by hand."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from PIL import Image
from tritonclient.utils import InferenceServerException

from distgen.core.spec import ImageSpec
from distgen.serving.http.app import create_app
from distgen.serving.http.body import MAX_BODY_BYTES
from distgen.serving.http.errors import RequestError
from distgen.serving.http.inference import planning
from distgen.serving.http.inference.tensors import HEADER_LENGTH
from distgen.serving.http.openai.fields import MAX_IMAGES
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.shelf import Shelf
from tests.unit.serving.servers import listening

DIGEST = "d" * 64
INFER = "/v2/models/fashion/infer"


@pytest.fixture(scope="module")
def place(make_engine) -> Iterator[str]:
    with listening(create_app(Shelf([make_engine()]))) as place:
        yield place


@pytest.fixture(scope="module")
def client(place: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(place) as client:
        yield client


def tensor(name: str, values: list[Any], datatype: str, *, binary: bool) -> triton.InferInput:
    kind = {"INT64": np.int64, "FP32": np.float32, "BYTES": np.object_}[datatype]
    made = triton.InferInput(name, [len(values)], datatype)
    made.set_data_from_numpy(np.array(values, kind), binary_data=binary)
    return made


def generated(place: str, **body: Any) -> np.ndarray:
    """The pixels of the OpenAI API's PNG for the same picture."""
    answer = httpx.post(f"http://{place}/v1/images/generations", json=body)
    (image,) = answer.json()["data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))))[:, :, None]


def test_stock_client_learns_what_is_served(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("fashion")
    assert client.is_model_ready("fashion", DIGEST[:12])
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("fashion", "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    (listed,) = client.get_model_repository_index()
    assert (listed["name"], listed["version"], listed["state"]) == ("fashion", DIGEST, "READY")
    described = client.get_model_metadata("fashion")
    assert described == client.get_model_metadata("fashion", DIGEST)
    assert [part["name"] for part in described["inputs"]] == ["seed", "label", "truncation"]
    (images,) = (part for part in described["outputs"] if part["name"] == "images")
    assert (images["datatype"], images["shape"]) == ("UINT8", [-1, 28, 28, 1])


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_are_those_of_the_other_api(client, place, binary):
    inputs = [
        tensor("seed", [7, 2**62, 7], "INT64", binary=binary),
        tensor("label", [2, 0, 1], "INT64", binary=binary),
        tensor("truncation", [0.7], "FP32", binary=binary),
    ]
    outputs = [triton.InferRequestedOutput("images", binary_data=binary)]
    answer = client.infer("fashion", inputs, outputs=outputs, request_id="mine")
    images = answer.as_numpy("images")
    assert (images.shape, images.dtype) == ((3, 28, 28, 1), np.uint8)
    for image, seed, label in zip(images, [7, 2**62, 7], [2, 0, 1], strict=True):
        alone = generated(place, seed=seed, prompt=f"class:{label}", truncation=0.7)
        np.testing.assert_array_equal(image, alone)
    head = answer.get_response()
    assert (head["id"], head["model_version"]) == ("mine", DIGEST)
    assert [output["name"] for output in head["outputs"]] == ["images"]


@pytest.mark.parametrize("binary", [True, False])
def test_without_outputs_all_come_and_classes_may_be_named(client, place, binary):
    names = ["sneaker", "T-shirt/top"]
    inputs = [
        tensor("seed", [1, 2], "INT64", binary=True),
        tensor("label", names, "BYTES", binary=binary),
    ]
    answer = client.infer("fashion", inputs, model_version=DIGEST)
    assert answer.as_numpy("label").tolist() == [2, 0]
    assert answer.as_numpy("seed").tolist() == [1, 2]
    for image, seed, name in zip(answer.as_numpy("images"), [1, 2], names, strict=True):
        np.testing.assert_array_equal(image, generated(place, seed=seed, prompt=name))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_requests_are_read(client, coding):
    inputs = [tensor("seed", [5], "INT64", binary=True)]
    plain = client.infer("fashion", inputs).as_numpy("images")
    packed = client.infer("fashion", inputs, request_compression_algorithm=coding)
    np.testing.assert_array_equal(packed.as_numpy("images"), plain)


def test_aio_client_gets_what_the_other_gets(client, place):
    async def ask() -> np.ndarray:
        async with triton_aio.InferenceServerClient(place) as aio:
            assert await aio.is_model_ready("fashion")
            assert (await aio.get_model_metadata("fashion"))["versions"] == [DIGEST]
            with pytest.raises(InferenceServerException, match="did you mean 'seed'"):
                await aio.infer("fashion", [tensor("sede", [5], "INT64", binary=True)])
            inputs = [tensor("seed", [5, 6], "INT64", binary=True)]
            return (await aio.infer("fashion", inputs)).as_numpy("images")

    found = asyncio.run(ask())
    inputs = [tensor("seed", [5, 6], "INT64", binary=True)]
    np.testing.assert_array_equal(found, client.infer("fashion", inputs).as_numpy("images"))


SEED = {"name": "seed", "shape": [2], "datatype": "INT64", "data": [1, 2]}


def with_seed(**changes: Any) -> dict[str, Any]:
    return {"inputs": [SEED | changes]}


def with_input(name: str, datatype: str, *data: Any, **changes: Any) -> dict[str, Any]:
    other = {"name": name, "shape": [len(data)], "datatype": datatype, "data": list(data)}
    return {"inputs": [SEED, other | changes]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": []}, "'seed' is missing"),
        ({}, "inputs: field required"),
        ([], "valid dictionary"),
        ({"inputs": [SEED, SEED]}, "there twice"),
        ({"inputs": [SEED], "input": 1}, "did you mean 'inputs'"),
        ({"inputs": [SEED], "id": 7}, "id: input should be a valid string"),
        (with_seed(name="sede"), "did you mean 'seed'"),
        (with_seed(typ="INT64"), "no field 'inputs.0.typ'"),
        (with_seed(datatype="FP32"), "cannot be 'FP32'. Send INT64"),
        (with_seed(datatype="INT46"), "did you mean 'INT64'"),
        (with_seed(shape=[3]), "Send a list of 3"),
        (with_seed(shape=[2, 1]), "cannot have the shape"),
        (with_seed(shape=[0], data=[]), "n at least 1"),
        (with_seed(shape=[-2]), "n at least 1"),
        (with_seed(data=None), "Send a list of 2"),
        (with_seed(data=[1, 2.5]), "2.5 in 'seed' is not INT64"),
        (with_seed(data=[1, True]), "True in 'seed' is not INT64"),
        (with_seed(data=[1, 2**63]), "is not INT64"),
        (with_seed(data=[1, -2]), "seed -2 cannot be"),
        (with_seed(shape=[257], data=[1] * 257), f"at most {MAX_IMAGES}"),
        (with_seed(parameters={"shared_memory_region": "x"}), "no parameter"),
        (with_seed(parameters={"binary_data_size": 16}), "has data and binary_data_size"),
        (with_seed(parameters={"binary_data_size": "x"}), "Send a whole number"),
        (with_seed(data=None, parameters={"binary_data_size": 16}), "0 bytes are left"),
        (with_seed(data=None, parameters={"binary_data_size": -1}), "Send as many bytes"),
        (with_input("label", "INT64", 1), "1 labels for 2 seeds"),
        (with_input("label", "INT64", 1, 9), "There is no class 9"),
        (with_input("label", "BYTES", "sneeker", "sneaker"), "did you mean 'Sneaker'"),
        (with_input("label", "BYTES", 1, 2), "Send texts"),
        (with_input("truncation", "FP32", 0.001), "truncation cannot be 0.001"),
        (with_input("truncation", "FP32", float("nan")), "truncation cannot be nan"),
        (with_input("truncation", "FP32", 1e300), "truncation cannot be inf"),
        (with_input("truncation", "FP32", 1, 1, 1), "3 truncations for 2 seeds"),
        (with_input("truncation", "INT64", 1), "Send FP32"),
        (with_seed() | {"outputs": [{"name": "image"}]}, "did you mean 'images'"),
        (with_seed() | {"outputs": [{"name": "seed"}] * 2}, "asked for twice"),
        (
            with_seed() | {"outputs": [{"name": "seed", "parameters": {"classification": 1}}]},
            "no parameter 'classification'",
        ),
        (with_seed() | {"parameters": {"binary_data_output": 1}}, "Send a boolean"),
        (with_seed() | {"parameters": {"sequence_id": 1}}, "no parameter 'sequence_id'"),
    ],
)
def test_what_cannot_be_is_400_in_words(place, body, said):
    response = httpx.post(f"http://{place}{INFER}", content=json.dumps(body))
    assert response.status_code == 400
    assert set(response.json()) == {"error"}
    assert said in response.json()["error"]


BINARY = {"name": "seed", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}}
LABEL = {"name": "label", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}


def packed(*inputs: dict[str, Any]) -> bytes:
    return json.dumps({"inputs": list(inputs)}).encode()


@pytest.mark.parametrize(
    ("head", "tail", "length", "said"),
    [
        (packed(BINARY), bytes(8), None, "are not JSON"),
        (packed(BINARY), bytes(8), "-1", "Inference-Header-Content-Length is '-1'"),
        (packed(BINARY), bytes(8), "0", "Inference-Header-Content-Length is '0'"),
        (packed(BINARY), bytes(8), "1_0", "Inference-Header-Content-Length is '1_0'"),
        (packed(BINARY), bytes(8), "9" * 5000, "Inference-Header-Content-Length is '999"),
        (packed(BINARY), bytes(8), "100000", "Inference-Header-Content-Length is '100000'"),
        (packed(BINARY), bytes(8), "20", "The first 20 bytes of the body are not JSON"),
        (packed(BINARY), bytes(7), "", "Inference-Header-Content-Length is ''"),
        (packed(BINARY), bytes(7), "right", "7 bytes are left"),
        (packed(BINARY), bytes(9), "right", "1 bytes follow the last tensor"),
        (packed(BINARY | {"shape": [2]}), bytes(8), "right", "Send 16"),
        (packed(BINARY | {"datatype": "UINT8"}), bytes(8), "right", "choices: BYTES, FP32, INT64"),
        (packed(BINARY, LABEL), bytes(16), "right", "are not 1 texts"),
        (packed(BINARY, LABEL), bytes(8) + struct.pack("<I4s", 9, b"abcd"), "right", "1 texts"),
        (packed(BINARY, LABEL), bytes(8) + struct.pack("<I4s", 4, b"\xff\0\xff\0"), "right", "no"),
        (b"\xff\xfe", b"", None, "are not JSON"),
        (b"[" * 100_000, b"", None, "are not JSON"),
        (b"", b"", None, "are not JSON"),
    ],
)
def test_bytes_that_do_not_add_up_are_400_in_words(place, head, tail, length, said):
    headers = {} if length is None else {HEADER_LENGTH: length.replace("right", str(len(head)))}
    response = httpx.post(f"http://{place}{INFER}", content=head + tail, headers=headers)
    assert response.status_code == 400, response.text
    assert said in response.json()["error"]


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", b"x"),
        ("gzip", b"x"),
        ("gzip", gzip.compress(packed(SEED))[:-9]),
        ("gzip", gzip.compress(packed(SEED)) + b"more"),
        ("gzip", gzip.compress(bytes(100 * MAX_BODY_BYTES))),
    ],
    ids=["unknown", "not gzip", "cut short", "more behind it", "a bomb"],
)
def test_what_is_badly_packed_or_a_bomb_is_400(place, coding, body):
    headers = {"content-encoding": coding}
    response = httpx.post(f"http://{place}{INFER}", content=body, headers=headers)
    assert response.status_code == 400
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/fashion/versions/1/infer", 404),
        ("GET", "/v2/models/fashion/nothing", 404),
        ("GET", INFER, 405),
        ("POST", INFER, 413),
    ],
)
def test_other_errors_have_the_protocols_shape_too(place, method, path, status):
    content = bytes(MAX_BODY_BYTES + 1) if status == 413 else packed(SEED)
    response = httpx.request(method, f"http://{place}{path}", content=content)
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)


def info_of(**spec: Any) -> ModelInfo:
    made = ImageSpec(mode="RGB", **spec)
    return ModelInfo("large", DIGEST, "gan", made, num_classes=0, created=0)


def test_answers_that_would_be_huge_are_refused_before_anything_is_made():
    info = info_of(height=256, width=256, frames=16)
    request = planning.InferRequest.model_validate(with_seed(shape=[22], data=[1] * 22))
    with pytest.raises(RequestError, match="Ask for at most 21"):
        planning.pictures_of(request, {"seed": [1] * 22}, info)
    with pytest.raises(RequestError, match="too many for JSON"):
        planning.require_small([("images", False)], 1, info)
    planning.require_small([("images", True), ("seed", False)], 21, info)


def test_a_truncation_is_the_number_that_was_meant_and_not_its_nearest_float32():
    request = planning.InferRequest.model_validate(with_input("truncation", "FP32", 0.7))
    nearest = float(np.float32(0.7))
    assert nearest != 0.7
    values = {"seed": [1, 2], "truncation": [nearest]}
    made = planning.pictures_of(request, values, info_of(height=16, width=16))
    assert [picture.truncation for picture in made] == [0.7, 0.7]


def test_a_model_without_classes_takes_and_gives_no_labels(make_engine):
    with listening(create_app(Shelf([make_engine("rgb-gan")]))) as place:
        with triton.InferenceServerClient(place) as client:
            answer = client.infer("fashion", [tensor("seed", [3], "INT64", binary=True)])
            assert answer.as_numpy("images").shape == (1, 16, 16, 3)
            assert answer.as_numpy("label") is None
        response = httpx.post(f"http://{place}{INFER}", json=with_input("label", "INT64", 1, 1))
        assert "this model has none" in response.json()["error"]
