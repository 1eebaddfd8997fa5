"""Promotion under load on a real endpoint: two replicas behind HAProxy, and no failed request."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from distgen.core.spec import ImageSpec
from distgen.core.storage import Location
from distgen.registry import ModelStore, load_bundle
from distgen.registry.aliases import compare_and_set, history
from distgen.serving.deploy import endpoint
from distgen.serving.making.encode import encode
from distgen.serving.making.engine import network_of
from distgen.serving.making.sampler import Picture, Sampler
from tests.ray.bundles import untrained

CLASSES = ("Trouser", "Sneaker", "Ankle boot")
BODY = {"prompt": "sneaker", "seed": 7}
CALLERS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Two versions of one model, the first its champion, and a model of another name."""
    folder = tmp_path_factory.mktemp("store")
    store = ModelStore(str(folder / "models"))
    for name, seed in (("fashion", 1), ("fashion", 2), ("shoes", 3)):
        store.promote(bundle(folder / f"{name}{seed}", seed, name), force=True)
    store.rollback("fashion")
    return store


def bundle(folder: Path, seed: int, name: str) -> Location:
    spec = ImageSpec(height=28, width=28, mode="L", classes=CLASSES)
    return untrained(folder, spec, name, seed)


@pytest.fixture(scope="module")
def url(ray_cluster, store: ModelStore) -> Iterator[str]:
    with endpoint.running(
        "fashion", "shoes", root=str(store.root), memory_bytes=2**30, port=0, replicas=2
    ) as url:
        yield url


def file_alone(place: Location) -> tuple[str, bytes]:
    """Digest of a bundle, and the file of the one picture that is asked for here."""
    loaded = load_bundle(place)
    images_nhwc = Sampler(network_of(loaded), loaded.spec).sample([Picture(seed=7, label=1)])
    return loaded.digest, encode(images_nhwc, "png", 95, 1)[0]


def file_of(answer: httpx.Response) -> tuple[str, bytes]:
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["data"]
    return answer.json()["digest"], base64.b64decode(image["b64_json"])


def ask(client: httpx.Client, url: str, **fields: Any) -> tuple[str, bytes]:
    return file_of(client.post(f"{url}/v1/images/generations", json=BODY | fields))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def all_say(url: str, digest: str) -> bool:
    """Whether replicas answer with this digest only, as far as 40 new connections tell."""
    found = set()
    for _ in range(40):
        with httpx.Client(trust_env=False) as client:  # a connection may stay with its replica
            found.add(ask(client, url)[0])
    return found == {digest}


def test_promotion_and_rollback_under_load_fail_no_request(url, store: ModelStore):
    files = dict(file_alone(store.bundle("fashion", version)) for version in (1, 2))
    first, second = files
    assert files[first] != files[second]
    done = threading.Event()

    def caller() -> set[str]:
        seen = set()
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not done.is_set():
                digest, file = ask(client, url)
                assert file == files[digest]
                seen.add(digest)
        return seen

    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(caller) for _ in range(CALLERS)]
        try:
            until(lambda: all_say(url, first), "the first is served")
            store.promote(store.bundle("fashion", 2), "fashion", force=True)
            until(lambda: all_say(url, second), "both replicas follow a promotion")
            store.rollback("fashion")
            until(lambda: all_say(url, first), "both replicas follow a rollback")
        finally:
            done.set()
        seen = [future.result() for future in callers]
    assert set.union(*seen) == {first, second}


def test_a_broken_promotion_leaves_both_replicas_as_they_were(url, store: ModelStore, tmp_path):
    digest, file = file_alone(store.bundle("fashion", 1))
    version = store.promote(bundle(tmp_path / "third", 3, "fashion"), alias="broken")
    (Path(store.bundle("fashion", version).path) / "model.safetensors").unlink()
    # As `promote` moves it, had the bundle been whole until then.
    folder = store.root / "fashion" / "aliases" / "champion"
    compare_and_set(folder, version, "promote", expected_moves=len(history(folder)))

    def told() -> bool:
        answers = [httpx.get(f"{url}/readyz", trust_env=False) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        return all("problem" in answer.json() for answer in answers)

    try:
        until(told, "both replicas tell of the broken version")
        with httpx.Client(trust_env=False) as client:
            assert ask(client, url) == (digest, file)
    finally:
        store.rollback("fashion")
    until(lambda: "problem" not in httpx.get(f"{url}/readyz", trust_env=False).json(), "it passes")


def test_each_model_of_one_deployment_answers_under_its_name(url, store: ModelStore):
    with httpx.Client(trust_env=False) as client:
        listed = client.get(f"{url}/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["fashion", "shoes"]
        for name in ("fashion", "shoes", "shoes@champion", "shoes:1"):
            place = store.bundle(name.partition("@")[0].partition(":")[0], 1)
            assert ask(client, url, model=name) == file_alone(place)
