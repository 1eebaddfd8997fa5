"""The endpoint as it is deployed: Ray Serve behind HAProxy, asked by clients that know nothing."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import click.testing
import httpx
import numpy as np
import openai
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from distgen.cli import main
from distgen.core.errors import DataError, UsageError
from distgen.core.ports import free_port
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location
from distgen.registry.bundle import load_bundle
from distgen.serving.client import Client
from distgen.serving.deploy import endpoint
from distgen.serving.making.engine import network_of
from distgen.serving.making.sampler import Picture, Sampler, picture_seed
from tests.ray.bundles import untrained

CLASSES = ("Trouser", "Sneaker", "Ankle boot")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Location:
    spec = ImageSpec(height=28, width=28, mode="L", classes=CLASSES)
    return untrained(tmp_path_factory.mktemp("model") / "bundle", spec)


@pytest.fixture(scope="module")
def url(ray_cluster, bundle: Location) -> Iterator[str]:
    port = free_port()
    with endpoint.running(bundle, port=port) as url:
        yield url
    # Shutdown leaves nothing: no port, no process, no file.
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not haproxies()


def distgen(*arguments: str) -> click.testing.Result:
    return CliRunner().invoke(main.app, list(arguments))


def below(name: str) -> list[psutil.Process]:
    """Living processes of a name that descend from this one; some may end while one looks."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if name in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def replicas() -> list[psutil.Process]:
    """The processes that hold the model."""
    return below("ServeRepl")


def haproxies() -> list[psutil.Process]:
    """Two while one takes over from the other with a new configuration; the old one then ends."""
    return below("haproxy")


def replica() -> psutil.Process:
    """The one process that holds the model."""
    (process,) = replicas()
    return process


def is_asked(replica: psutil.Process) -> bool:
    """Whether HAProxy has a connection to this replica."""
    mine = {each.laddr.port for each in replica.net_connections() if each.status == "LISTEN"}
    asked = set()
    for proxy in haproxies():
        with contextlib.suppress(psutil.NoSuchProcess):
            asked |= {each.raddr.port for each in proxy.net_connections() if each.raddr}
    return not mine.isdisjoint(asked)


def wait_for(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.5)


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve, when it is imported
def test_what_a_killed_serve_left_on_a_cluster_can_be_ended(ray_cluster, bundle):
    from ray import serve

    serve.start(proxy_location="Disabled")
    with pytest.raises(UsageError, match="endpoint stop"), endpoint.running(bundle, port=0):
        pass
    for outcome in ("The endpoint on {} has ended.", "No endpoint of distgen's on {} runs."):
        stopped = distgen("endpoint", "stop", "--address", ray_cluster.address)
        assert outcome.format(ray_cluster.address) in stopped.output


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve, when it is imported
def test_a_second_replica_comes_under_load_and_no_request_fails(ray_cluster, bundle):
    clients, enough = 64, threading.Event()

    def ask(url: str) -> set[int]:
        seen = set()
        with httpx.Client(base_url=url, timeout=60) as client:
            while not enough.is_set():
                body = {"prompt": "random", "n": 4}
                seen.add(client.post("/v1/images/generations", json=body).status_code)
        return seen

    with endpoint.running(bundle, port=free_port(), replicas=(1, 2)) as url:
        assert len(replicas()) == 1
        with ThreadPoolExecutor(clients) as pool:
            answers = [pool.submit(ask, url) for _ in range(clients)]
            try:
                wait_for(lambda: [is_asked(each) for each in replicas()] == [True, True])
            finally:
                enough.set()
        assert set.union(*(answer.result() for answer in answers)) == {200}


def test_loopback_of_another_machine_is_refused(ray_cluster, bundle, monkeypatch):
    monkeypatch.setattr(endpoint, "is_own", lambda _: False)
    with (
        pytest.raises(UsageError, match="of another machine") as error,
        endpoint.running(bundle, port=8123),
    ):
        pass
    assert "ssh -L 8123:127.0.0.1:8123" in str(error.value)


def test_official_client_gets_what_the_weights_alone_would_make(url, bundle):
    with openai.OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0) as client:
        answer = client.images.generate(
            model="fashion",
            prompt="sneaker",
            n=20,
            size="28x28",  # type: ignore[call-overload]
            response_format="b64_json",
            extra_body={"seed": 7},
        )
        assert [model.id for model in client.models.list()] == ["fashion"]
        with pytest.raises(openai.BadRequestError, match="did you mean 'Sneaker'"):
            client.images.generate(prompt="sneeker")
    loaded = load_bundle(bundle)
    sampler = Sampler(network_of(loaded), loaded.spec)
    expected = sampler.sample([Picture(picture_seed(7, i), 1) for i in range(20)])
    got = np.stack([pixels(image.b64_json) for image in answer.data])
    np.testing.assert_array_equal(got, expected[:, :, :, 0])
    assert answer.digest == loaded.digest


def test_concurrent_clients_get_the_same_bytes_as_alone(url):
    alone = Client(url).generate("sneaker", n=5, seed=11)

    def ask(number: int) -> list[np.ndarray]:
        client = Client(url)
        return [
            client.generate("sneaker", n=5, seed=11).images_nhwc
            if turn % 2
            else client.generate("random", n=1 + number, seed=turn).images_nhwc
            for turn in range(8)
        ]

    with ThreadPoolExecutor(2) as threads:
        for answers in threads.map(ask, range(2)):
            for images in answers[1::2]:
                np.testing.assert_array_equal(images, alone.images_nhwc)


def test_haproxy_answers_and_listens_on_loopback_only(url):
    (proxy,) = haproxies()
    listening = {
        connection.laddr
        for connection in proxy.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", int(url.rpartition(":")[2])) in listening
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_replica_listens_on_loopback_only(url):
    connections = replica().net_connections("inet")
    http = [c.laddr for c in connections if 30_000 <= c.laddr.port <= 31_000]
    assert {address.ip for address in http} == {"127.0.0.1"}


def test_probes_and_errors_pass_through_the_proxy(url):
    assert httpx.get(f"{url}/readyz").json()["status"] == "ready"
    for body in (b"", b"prompt=sneaker", b'{"n": 0}', b'{"n": 1000000000}', b'{"sede": 1}'):
        answer = httpx.post(f"{url}/v1/images/generations", content=body)
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_second_endpoint_in_the_same_cluster_is_refused(url, bundle):
    with (
        pytest.raises(UsageError, match="serves something already"),
        endpoint.running(bundle, port=free_port()),
    ):
        pass


@pytest.mark.slow
def test_serve_command_answers_until_told_to_stop_and_leaves_nothing(bundle):
    port = free_port()
    started = distgen("serve", bundle.url, "--port", str(port), "--detach", "--json")
    assert started.exit_code == 0, started.exception
    url = json.loads(started.stdout)["url"]
    try:
        refused = distgen("serve", bundle.url, "--port", str(port)).exception
        assert isinstance(refused, UsageError)
        assert f"Port {port} of 127.0.0.1 is taken" in str(refused)
        status = json.loads(distgen("endpoint", "status", "--json").stdout)
        (row,) = [row for row in status["endpoints"] if row["url"] == url]
        assert row["ready"]
        family = [psutil.Process(row["pid"])]
        family += family[0].children(recursive=True)
        assert Client(url).classes() == list(CLASSES)
    finally:
        stopped = distgen("endpoint", "stop", "--url", url)
    assert stopped.exit_code == 0, stopped.exception
    _, alive = psutil.wait_procs(family, timeout=30)
    assert [process.name() for process in alive] == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_damaged_bundle_is_refused_before_anything_starts(ray_cluster, bundle, tmp_path):
    place = tmp_path / "damaged"
    place.mkdir()
    for file in bundle.list():
        (place / file.name).write_bytes(file.read_bytes())
    weights = place / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with (
        pytest.raises(DataError, match=r"model\.safetensors"),
        endpoint.running(str(place), port=0),
    ):
        pass
