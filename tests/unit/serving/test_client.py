"""The client of `distgen query` against a real HTTP server in this process."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from fastapi import FastAPI
from PIL import Image
from typer.testing import CliRunner

from distgen.cli import query as query_cli
from distgen.cli import serve as cli
from distgen.core.errors import DistgenError, UsageError
from distgen.core.ports import free_port
from distgen.core.spec import ImageSpec
from distgen.core.storage import locate
from distgen.models import GANConfig, build_networks
from distgen.registry.bundle import inspect_bundle, write_bundle
from distgen.serving.client import Client
from distgen.serving.deploy.detached import Detached
from distgen.serving.deploy.endpoint import _wait_until_ready
from distgen.serving.http.app import create_app
from distgen.serving.making.shelf import Shelf
from tests.unit.serving.servers import served

GREY = ImageSpec(height=28, width=28, mode="L", classes=("[red]", "[/b]"))
GAN = GANConfig(latent_dim=16, width=16, conditional=True)


@pytest.fixture(scope="module")
def url(make_engine) -> Iterator[str]:
    with served(create_app(Shelf([make_engine()]))) as url:
        yield url


def query(*arguments: str):
    app = typer.Typer()
    app.command()(query_cli.query)
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


def test_each_picture_is_saved_under_the_seed_that_brings_it_back(url, tmp_path: Path):
    folder, out = tmp_path / "each", tmp_path / "grid.png"
    saved = ("--out", str(out), "--each", str(folder), "--url", url)
    result = query("sneaker", "-n", "3", "--seed", "7", *saved, "--json")
    described = json.loads(result.output)
    names = [f"Sneaker-{seed}.png" for seed in described["seeds"]]
    assert described["files"] == [str(folder / name) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    again = Client(url).generate("sneaker", seed=described["seeds"][2])
    pixels = np.asarray(Image.open(folder / names[2]))
    np.testing.assert_array_equal(pixels, again.images_nhwc[0, ..., 0])


def test_pictures_play_one_after_the_other_where_the_name_says_so(url, tmp_path: Path):
    out = tmp_path / "pictures.gif"
    assert query("-n", "3", "--out", str(out), "--url", url).exit_code == 0
    assert (Image.open(out).format, Image.open(out).n_frames) == ("GIF", 3)


@pytest.mark.parametrize("show", ["auto", "kitty", "blocks"])
def test_no_pictures_for_terminals_go_into_a_pipe(url, tmp_path: Path, show):
    result = query("--show", show, "--out", str(tmp_path / "grid.png"), "--url", url)
    assert result.exit_code == 0
    assert "\x1b" not in result.output


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("show", "begins"), [("kitty", b"\x1b_Ga=T"), ("iterm", b"\x1b]1337;File="), ("none", b"")]
)
def test_on_a_terminal_pictures_are_shown_as_asked_for(monkeypatch, url, show, begins):
    terminal = Terminal(io.BytesIO())
    monkeypatch.setattr("sys.stdout", terminal)
    query_cli._show(Client(url).generate(n=2), "grid.png", show)
    sent = terminal.buffer.getvalue()
    assert sent.startswith(begins)
    assert bool(sent) == (show != "none")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--show", "kity"), "did you mean 'kitty'"),
        (("--out", "grid.jpg"), ".png, .gif or .webp"),
        (("--each", __file__), "is a file"),
    ],
)
def test_what_cannot_be_saved_or_shown_is_refused_before_anything_is_asked(arguments, says):
    error = query("--url", f"http://127.0.0.1:{free_port()}", *arguments).exception
    assert isinstance(error, UsageError)
    assert says in str(error)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sneeker",), "did you mean 'Sneaker'"),
        (("class:9",), "0 to 3"),
        (("-n", "0"), "1 to 256"),
        (("-n", str(10**9)), "1 to 256"),
        (("--seed", "-1"), "from 0 to"),
        (("--truncation", "0"), "0.05"),
        (("--truncation", "nan"), "from 0.05 to 10"),
        (("--truncation", "inf"), "from 0.05 to 10"),
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
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        with pytest.raises(DistgenError, match="not a distgen endpoint"):
            Client(f"http://127.0.0.1:{server.server_port}").generate()
    finally:
        server.shutdown()
        server.server_close()


def test_another_service_of_the_same_api_is_recognised():
    contents: list[object] = [{"data": []}, {"data": [{"id": "gpt"}]}, {"data": 1}, [], {}]
    app = FastAPI()

    @app.api_route("/{number}/v1/{path:path}", methods=["GET", "POST"])
    def answer(number: int) -> object:
        return contents[number]

    with served(app) as url:
        for number in range(len(contents)):
            client = Client(f"{url}/{number}")
            for ask in (client.model, client.classes, client.generate):
                with pytest.raises(DistgenError, match="not a distgen endpoint"):
                    ask()


def test_a_proxy_is_not_asked_for_what_this_machine_serves(url, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert Client(url).classes()[2] == "Sneaker"
    assert Detached(pid=1, started=0, model="m", url=url, log="log").is_ready()
    assert _wait_until_ready(url, deadline=0.0) == ""
    with pytest.raises(DistgenError, match="No endpoint answers"):
        Client("http://198.51.100.1").model()  # by way of the proxy, which is not there


def test_where_pictures_cannot_be_saved_is_a_usage_error(url, tmp_path: Path):
    error = query("--url", url, "--out", str(tmp_path)).exception
    assert isinstance(error, UsageError)
    assert f"--out {tmp_path}/grid.png" in str(error)
    (tmp_path / "file").touch()
    error = query("--url", url, "--out", str(tmp_path / "file" / "grid.png")).exception
    assert isinstance(error, UsageError)
    assert "cannot be saved" in str(error)


def test_what_looks_like_markup_is_shown_as_it_is(capsys, tmp_path: Path):
    location = locate(tmp_path)
    write_bundle(
        location,
        model_config=GAN,
        spec=GREY,
        state=build_networks(GAN, GREY)["generator"].state_dict(),
        card=None,
        samples_png=None,
        name="fashion",
        images_seen=0,
    )
    cli._announce("http://[fe80::1]:8000", inspect_bundle(location), as_json=False)
    shown = capsys.readouterr().out
    assert "fashion is served at http://[fe80::1]:8000" in shown
    assert "[red], [/b]" in shown
