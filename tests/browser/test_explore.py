"""Looking into pictures: latents that are moved, ways between two, and pictures of one's own."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.looking import pixels, seeds, wait_for_status


@pytest.fixture
def vae(page: Page, endpoint: str) -> Page:
    """The playground of a model that can also make pictures of pictures."""
    page.goto(f"{endpoint}#model=vae&n=4")
    page.wait_for_selector(".card img")
    expect(page.locator("#own-section")).to_be_visible()
    return page


@pytest.fixture
def drawing() -> bytes:
    """A picture of another size and shape than the model's."""
    colours = np.zeros((90, 60, 3), np.uint8)
    colours[20:50, 10:40] = (250, 200, 30)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "PNG")
    return buffer.getvalue()


def upload(page: Page, data: bytes) -> None:
    page.set_input_files("#own-file", {"name": "mine.png", "mimeType": "image/png", "buffer": data})


def test_slider_moves_the_picture_and_reset_brings_it_back(opened: Page):
    opened.locator(".card").nth(3).click()
    before = pixels(opened, "#picked-image")
    first = opened.locator("#latents input").first
    expect(first).to_be_visible()
    for _ in range(12):
        first.press("ArrowRight")
    wait_for_status(opened, "Moved")
    expect(opened.locator("#picked-seed")).to_contain_text("moved latents")
    assert pixels(opened, "#picked-image") != before
    opened.click("#latents-reset")
    expect(opened.locator("#picked-seed")).not_to_contain_text("moved")
    assert pixels(opened, "#picked-image") == before
    assert opened.said == []


def test_latents_moved_and_moved_back_are_the_seed_s_own_picture(opened: Page):
    before = pixels(opened, ".card:nth-child(2) img")
    opened.locator("#truncation").fill("0.8")
    wait_for_status(opened, "truncation 0.8")
    assert pixels(opened, ".card:nth-child(2) img") != before
    opened.locator(".card").nth(1).click()
    before = pixels(opened, "#picked-image")
    first = opened.locator("#latents input").first
    expect(first).to_be_visible()
    origin = first.input_value()
    for value in ("2", origin):
        with opened.expect_response("**/v1/images/generations"):
            first.fill(value)
    expect(opened.locator("#picked-seed")).to_contain_text("moved latents")
    wait_for_status(opened, "Moved")
    assert pixels(opened, "#picked-image") == before


def test_newest_place_of_a_slider_is_what_is_shown(opened: Page):
    opened.locator(".card").first.click()
    expect(opened.locator("#latents input").first).to_be_visible()
    answers: list[dict] = []
    opened.on(
        "requestfinished", lambda r: answers.append(r.post_data_json) if r.post_data else None
    )
    opened.evaluate(
        """() => {
          const slider = document.querySelector("#latents input");
          for (let step = 0; step <= 50; step++) {
            slider.value = -2 + step / 25;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
          }
        }"""
    )
    wait_for_status(opened, "Moved")
    assert len(answers) < 10
    assert answers[-1]["latents"][0][0] == pytest.approx(0.0)


def test_way_between_two_picks_begins_and_ends_with_them(vae: Page):
    vae.locator(".card").nth(1).click()
    expect(vae.locator("#blend-hint")).to_be_visible()
    start = pixels(vae, "#picked-image")
    vae.locator(".card").nth(2).click()
    expect(vae.locator("#blend")).to_be_visible()
    middle = pixels(vae, "#blend-image")
    vae.focus("#blend-step")
    vae.keyboard.press("Home")
    assert pixels(vae, "#blend-image") == start
    vae.keyboard.press("End")
    assert pixels(vae, "#blend-image") == pixels(vae, "#picked-image")
    assert middle not in (start, pixels(vae, "#picked-image"))
    assert vae.get_attribute("#blend-step", "aria-valuetext") == "100 %"
    vae.click("#blend-play")
    expect(vae.locator("#blend-where")).not_to_have_text("100 %")
    vae.click("#blend-play")
    with vae.expect_download() as film:
        vae.click("#blend-save")
    assert Image.open(film.value.path()).format == "GIF"
    assert vae.said == []


def test_own_picture_is_reconstructed_and_varied(vae: Page, drawing: bytes):
    upload(vae, drawing)
    vae.click("#own-reconstruct")
    wait_for_status(vae, "1 picture")
    expect(vae.locator(".card")).to_have_count(1)
    vae.click("#own-vary")
    wait_for_status(vae, "4 pictures")
    assert len({pixels(vae, f".card:nth-child({i}) img") for i in range(1, 5)}) == 4
    vae.locator(".card").first.click()  # no seed alone brings it back, so there is nothing to move
    expect(vae.locator("#picked")).to_be_visible()
    expect(vae.locator("#picked-use")).to_be_hidden()
    expect(vae.locator("#latents-section")).to_be_hidden()
    assert vae.said == []


def test_painted_part_of_an_own_picture_is_made_anew_and_the_rest_kept(vae: Page, drawing: bytes):
    upload(vae, drawing)
    vae.click("#own-edit")
    expect(vae.get_by_role("alert")).to_contain_text("Nothing is painted yet.")
    vae.focus("#own-canvas")
    for key in [*["ArrowUp"] * 6, " ", "ArrowRight", " "]:
        vae.keyboard.press(key)
    with vae.expect_response("**/v1/images/edits") as answered:
        vae.click("#own-edit")
    wait_for_status(vae, "4 pictures")
    made = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))))
            for image in answered.value.json()["data"]
        ]
    )
    differs = (made != made[:1]).any(axis=0)
    assert differs.any()
    assert not differs[:3].any()
    assert not differs[20:].any()
    assert vae.said == []


def test_own_picture_may_be_the_picked_one(vae: Page):
    vae.locator(".card").first.click()
    vae.click("#own-picked")
    expect(vae.locator("#own")).to_be_visible()
    with vae.expect_response("**/v1/images/variations") as answered:
        vae.click("#own-reconstruct")
    assert answered.value.ok


def test_file_that_is_no_picture_is_refused_in_words(vae: Page):
    upload(vae, b"not a picture")
    expect(vae.get_by_role("alert")).to_contain_text("no picture that this browser can read")
    expect(vae.locator("#own")).to_be_hidden()


def test_model_that_cannot_is_not_asked(opened: Page):
    opened.locator(".card").first.click()
    expect(opened.locator("#own-section")).to_be_hidden()


@pytest.mark.parametrize("tab", ["curl", "python"])
def test_code_for_an_own_picture_works_with_its_files(
    vae: Page, drawing: bytes, tab: str, tmp_path: Path
):
    if tab == "curl" and shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: curl)")
    (tmp_path / "image.png").write_bytes(drawing)
    upload(vae, drawing)
    vae.click("#own-vary")
    wait_for_status(vae, "4 pictures")
    vae.click(f"#tab-{tab}")
    program = ["bash", "-c"] if tab == "curl" else [sys.executable, "-c"]
    done = subprocess.run(
        [*program, vae.locator("#code").inner_text()],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    if tab == "curl":
        assert '"data":' in done.stdout
    else:
        assert len(list(tmp_path.glob("00?.png"))) == 4
    vae.click("#tab-cli")
    expect(vae.locator("#code")).to_contain_text("--model vae")
    assert len(seeds(vae)) == 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed (Debian: curl)")
def test_code_for_a_way_brings_the_same_pictures(opened: Page, tmp_path: Path):
    opened.locator(".card").nth(0).click()
    with opened.expect_response("**/v1/images/generations") as answered:
        opened.locator(".card").nth(1).click()
    expect(opened.locator("#code-about")).to_have_text("the way between two picks")
    command = opened.locator("#code").inner_text()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["data"] == answered.value.json()["data"]
    opened.click("#tab-cli")
    expect(opened.locator("#code")).to_contain_text(f"--interpolate {seeds(opened)[1]}")
