"""An endpoint with keys as it is deployed: HAProxy, a replica, keys that come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton

from distgen.core.errors import UsageError
from distgen.core.ports import free_port
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location
from distgen.serving.client import Client
from distgen.serving.deploy import endpoint
from distgen.serving.http.gate.keyfile import add, revoke
from tests.ray.bundles import untrained

PATH = "/v1/images/generations"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Location:
    spec = ImageSpec(height=28, width=28, mode="L", classes=("Trouser", "Sneaker"))
    return untrained(tmp_path_factory.mktemp("model") / "bundle", spec)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    add(path, "first")
    return path


@pytest.fixture(scope="module")
def url(ray_cluster, bundle: Location, keys: Path) -> Iterator[str]:
    with endpoint.running(bundle, port=free_port(), keys=str(keys)) as url:
        yield url


def asked(url: str, key: str, n: int = 1) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}{PATH}", json={"n": n, "seed": 7}, headers=headers, timeout=60.0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_a_key_only_what_is_open_answers(url):
    for path in ("/livez", "/readyz", "/-/healthz", "/v2/health/live"):
        assert httpx.get(f"{url}{path}").status_code == 200, path
    for path in ("/v1/models", "/v2", "/v2/models/fashion", "/metrics", "/nothing"):
        assert httpx.get(f"{url}{path}").status_code == 401, path
    refused = httpx.post(f"{url}{PATH}", json={})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    hidden = httpx.get(f"{url}/-/routes")
    assert hidden.status_code == 404
    assert "distgen" not in hidden.text


def test_a_key_that_is_added_opens_and_one_that_is_revoked_does_not(url, keys):
    key = add(keys, "comes-and-goes")
    wait_for(lambda: asked(url, key).status_code == 200)
    assert Client(url, key=key).generate("sneaker", n=2).model == "fashion"
    with openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0) as client:
        assert len(client.images.generate(prompt="sneaker", n=2).data) == 2
    seeds = triton.InferInput("seed", [1], "INT64")
    seeds.set_data_from_numpy(np.array([5]))
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        answer = client.infer("fashion", [seeds], headers={"Authorization": f"Bearer {key}"})
        assert answer.as_numpy("images").shape == (1, 28, 28, 1)
    revoke(keys, "comes-and-goes")
    wait_for(lambda: asked(url, key).status_code == 401)


def test_a_broken_file_takes_no_keys_away(url, keys):
    key = add(keys, "through-it-all")
    wait_for(lambda: asked(url, key).status_code == 200)
    good = keys.read_bytes()
    keys.write_bytes(good[: len(good) // 2])
    until = time.monotonic() + 2  # twice as long as it takes to be noticed
    while time.monotonic() < until:
        assert asked(url, key).status_code == 200
    keys.write_bytes(good)


def test_a_key_gives_as_many_pictures_as_its_rate(url, keys):
    key = add(keys, "slow", per_minute=8)
    wait_for(lambda: asked(url, key, n=1).status_code == 200)
    assert asked(url, key, n=9).status_code == 400
    answers = [asked(url, key, n=4) for _ in range(3)]
    assert [answer.status_code for answer in answers][-1] == 429
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"


def test_serving_to_others_needs_keys(ray_cluster, bundle):
    with (
        pytest.raises(UsageError, match="Whoever reaches"),
        endpoint.running(bundle, host="0.0.0.0", port=0),
    ):
        pass
