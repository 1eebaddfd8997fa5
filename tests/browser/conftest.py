"""A real Chromium, and real endpoints over real HTTP for it to look at."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import uvicorn
from starlette.types import ASGIApp

from distgen.core.spec import ImageSpec
from distgen.models import GANConfig, Sampler, build_networks
from distgen.serving.http.app import create_app
from distgen.serving.making.engine import Engine, ModelInfo
from distgen.serving.making.references import references
from distgen.serving.making.shelf import Shelf
from tests.unit.serving.conftest import MODELS, make_engine, make_network
from tests.unit.serving.making.bundles import bundle, load
from tests.unit.serving.making.here import engine_here

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

__all__ = ["make_engine", "make_network"]  # the fixtures of tests/unit/serving

WAIT_MS = 30_000
sync_api.expect.set_options(timeout=WAIT_MS)


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """An application behind a real server on a port of its own: its URL, which ends in a slash."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: chromium)")
    is_root = os.geteuid() == 0  # root gets no sandbox
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if is_root else []
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two untrained models of bundles: a conditional GAN `fashion`, and a VAE `vae`."""
    folder = tmp_path_factory.mktemp("bundles")
    named = []
    for name, key in (("fashion", "conditional-gan"), ("vae", "vae")):
        config, spec = MODELS[key]
        named.append(f"{name}={bundle(folder / name, spec=spec, model=config).url}")
    with served(create_app(Shelf.of(references(named), load))) as url:
        yield url


@pytest.fixture
def page(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    """A fresh tab; `said` is what its console holds."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.said = said
    yield page
    context.close()


@pytest.fixture
def opened(page: sync_api.Page, endpoint: str) -> sync_api.Page:
    """The playground of `endpoint`, its first pictures there."""
    page.goto(endpoint)
    page.wait_for_selector(".card img")
    return page


def engine_of_classes(*names: str) -> Engine:
    """A tiny engine whose classes have these names."""
    spec = ImageSpec(height=16, width=16, mode="L", classes=names)
    torch.manual_seed(0)
    config = GANConfig(latent_dim=8, width=8, conditional=True)
    network = build_networks(config, spec)["generator"].eval()
    assert isinstance(network, Sampler)
    info = ModelInfo("odd", "d" * 64, "gan", spec, num_classes=len(names), created=0)
    info = replace(info, latent_dim=8, leading_latents=tuple(range(8)))
    return engine_here(network, info)
