"""The client of `distgen query` against a real HTTP server in this process."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
import uvicorn
from PIL import Image
from typer.testing import CliRunner

from distgen.cli import serve as cli
from distgen.core.errors import DistgenError, UsageError
from distgen.core.ports import free_port
from distgen.serving.client import Client
from distgen.serving.openai_api import create_app


@pytest.fixture(scope="module")
def url(make_engine) -> Iterator[str]:
    app = create_app(make_engine())
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


def query(*arguments: str):
    app = typer.Typer()
    app.command()(cli.query)
    return CliRunner().invoke(app, list(arguments))


def test_client_returns_pixels_seeds_and_classes(url):
    client = Client(f"{url}/v1/")
    assert client.classes()[2] == "Sneaker"
    answer = client.generate("sneaker", n=3, seed=7)
    assert answer.images_nhwc.shape == (3, 28, 28, 1)
    assert answer.labels == ("Sneaker",) * 3
    assert (answer.seeds[0], answer.model) == (7, "fashion")
    again = client.generate(class_labels=[2], seed=answer.seeds[1])
    np.testing.assert_array_equal(again.images_nhwc[0], answer.images_nhwc[1])
    cut = client.generate("sneaker", n=3, seed=7, truncation=0.3)
    assert (cut.images_nhwc != answer.images_nhwc).any()


def test_query_saves_a_grid_and_says_where(url, tmp_path: Path):
    out = tmp_path / "grid.png"
    result = query("sneaker", "-n", "9", "--out", str(out), "--url", url, "--seed", "7")
    assert result.exit_code == 0
    assert str(out) in result.output.replace("\n", "")
    assert Image.open(out).size == (3 * 58 + 2, 3 * 58 + 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sneeker",), "did you mean 'Sneaker'"),
        (("class:9",), "0 to 3"),
        (("-n", "0"), "1 to 256"),
        (("-n", str(10**9)), "1 to 256"),
        (("--seed", "-1"), "from 0 to"),
        (("--truncation", "0"), "0.05"),
    ],
)
def test_refused_requests_are_usage_errors_with_the_remedy(url, arguments, says):
    error = query("--url", url, *arguments).exception
    assert isinstance(error, UsageError)
    assert says in str(error)
    assert error.where


def test_unreachable_endpoint_names_the_command_that_starts_one():
    error = query("--url", f"http://127.0.0.1:{free_port()}").exception
    assert isinstance(error, DistgenError)
    assert error.exit_code == 1
    assert "distgen serve" in str(error)
    assert isinstance(query("--url", "localhost:8000").exception, UsageError)


def test_another_web_server_is_recognised():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever).start()
    try:
        with pytest.raises(DistgenError, match="not a distgen endpoint"):
            Client(f"http://127.0.0.1:{server.server_port}").generate()
    finally:
        server.shutdown()
        server.server_close()
