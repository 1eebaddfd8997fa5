"""What is copied from the page does the same elsewhere."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from distgen.serving.http.app import create_app
from distgen.serving.making.shelf import Shelf
from tests.browser.conftest import engine_of_classes, served
from tests.browser.looking import wait_for_status

NAME = """it's "$HOME" `id` \\ é"""


def code(page: Page, tab: str) -> str:
    page.click(f"#tab-{tab}")
    return page.locator("#code").inner_text()


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def asked(page: Page):
    """The playground of a class whose name no shell and no language likes; 2 pictures of it."""
    with served(create_app(Shelf([engine_of_classes("plain", NAME)]))) as url:
        page.goto(url)
        page.wait_for_selector(".card img")
        page.select_option("#class", label=NAME)
        page.fill("#count", "2")
        with page.expect_response("**/v1/images/generations") as answered:
            page.press("#count", "Enter")
        expect(page.locator(".card")).to_have_count(2)
        shown = [image["b64_json"] for image in answered.value.json()["data"]]
        yield page, [base64.b64decode(text) for text in shown]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_that_is_copied_brings_the_same_pictures(asked, tmp_path: Path):
    page, shown = asked
    answer = json.loads(run(["bash", "-c", code(page, "curl")], tmp_path))
    assert [base64.b64decode(image["b64_json"]) for image in answer["data"]] == shown
    assert answer["data"][0]["revised_prompt"] == NAME


def test_python_that_is_copied_brings_the_same_pictures(asked, tmp_path: Path):
    page, shown = asked
    run([sys.executable, "-c", code(page, "python")], tmp_path)
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.png"))] == shown


def test_query_that_is_copied_brings_the_same_pictures(asked, tmp_path: Path):
    page, shown = asked
    assert code(page, "cli").startswith("distgen query ")
    assert queried(page, tmp_path) == {pixels_of(file) for file in shown}


def test_query_that_is_copied_brings_moved_latents(asked, tmp_path: Path):
    page, _ = asked
    page.locator(".card").nth(1).click()
    slider = page.locator("#latents input").first
    expect(slider).to_be_visible()
    with page.expect_response("**/v1/images/generations") as answered:
        slider.press("End")
    wait_for_status(page, "Moved")
    (moved,) = answered.value.json()["data"]
    assert queried(page, tmp_path) == {pixels_of(base64.b64decode(moved["b64_json"]))}


def queried(page: Page, folder: Path) -> set[bytes]:
    """Pixels that the copied command line brings."""
    program = f"{sys.executable} -c 'from distgen.cli.main import main; main()'"
    command = code(page, "cli").replace("distgen query", f"{program} query --show none --each out")
    run(["bash", "-c", command], folder)
    return {pixels_of(path.read_bytes()) for path in (folder / "out").glob("*.png")}


def pixels_of(file: bytes) -> bytes:
    return Image.open(io.BytesIO(file)).convert("L").tobytes()


def test_button_copies_and_says_so(asked):
    page, _ = asked
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy")
    expect(page.locator("#copy-said")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#code").inner_text()


def test_tabs_are_moved_along_by_arrow_keys(asked):
    page, _ = asked
    page.focus("#tab-curl")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-python")).to_be_focused()
    expect(page.locator("#code")).to_contain_text("from openai import OpenAI")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-curl")).to_be_focused()
