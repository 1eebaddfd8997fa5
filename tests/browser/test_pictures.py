"""Asking for pictures, and picking one."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from distgen.serving.http.app import create_app
from distgen.serving.http.errors import RequestError
from distgen.serving.making.shelf import Shelf
from tests.browser.conftest import engine_of_classes, served
from tests.browser.looking import focused, pixels, seeds, wait_for_status


def test_pictures_are_there_at_once_with_seeds_and_words_for_them(opened: Page):
    expect(opened.locator(".card")).to_have_count(16)
    image = opened.locator(".card img").first
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 28
    assert seeds(opened)[0] == "0"
    assert re.fullmatch(r"[A-Z].*, seed 0", image.get_attribute("alt") or "")
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    wait_for_status(opened, "16 pictures, seed 0")
    assert opened.said == []


def test_same_seed_brings_the_same_pictures_and_the_dice_others(opened: Page):
    before = pixels(opened, ".card img")
    opened.click("#dice")
    expect(opened.locator(".card .seed").first).not_to_have_text("0")
    assert pixels(opened, ".card img") != before
    opened.fill("#seed", "0")
    opened.press("#seed", "Enter")
    expect(opened.locator(".card .seed").first).to_have_text("0")
    assert pixels(opened, ".card img") == before


def test_class_number_format_and_truncation_are_asked_for(opened: Page):
    opened.select_option("#class", label="Sneaker")
    opened.fill("#count", "3")
    opened.select_option("#format", "webp")
    opened.locator("#truncation").fill("0.5")
    with opened.expect_request("**/v1/images/generations") as asked:
        opened.press("#count", "Enter")
    assert asked.value.post_data_json == {
        "model": "fashion",
        "prompt": "Sneaker",
        "n": 3,
        "seed": 0,
        "truncation": 0.5,
        "output_format": "webp",
    }
    wait_for_status(opened, "3 pictures of Sneaker, seed 0")
    expect(opened.locator(".card")).to_have_count(3)


def test_address_brings_the_same_page_back(opened: Page):
    opened.select_option("#class", label="Trouser")
    opened.fill("#count", "2")
    opened.fill("#seed", "77")
    opened.press("#seed", "Enter")
    wait_for_status(opened, "2 pictures of Trouser, seed 77")
    shown = pixels(opened, ".card img")
    opened.reload()
    wait_for_status(opened, "2 pictures of Trouser, seed 77")
    assert pixels(opened, ".card img") == shown


def test_another_model_shows_its_own_classes(opened: Page):
    opened.select_option("#model", "vae")
    expect(opened.locator("#class-field")).to_be_hidden()
    expect(opened.locator("#about")).to_contain_text("VAE")
    expect(opened.locator(".card .what")).to_have_count(0)
    assert opened.locator(".card img").first.get_attribute("alt") == "Seed 0"


def test_picture_is_picked_by_keyboard(opened: Page):
    opened.focus("#pictures .card >> nth=0")
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        opened.keyboard.press(key)
    # One row down, whatever the row's length is.
    below = opened.evaluate(
        "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    )
    assert below > 1
    opened.keyboard.press("Enter")
    chosen = opened.locator(".card").nth(below)
    expect(chosen).to_have_attribute("aria-selected", "true")
    expect(opened.locator("#picked-image")).to_have_attribute(
        "alt", chosen.get_attribute("aria-label") or ""
    )
    assert pixels(opened, "#picked-image") == pixels(opened, f".card:nth-child({below + 1}) img")
    opened.keyboard.press("End")
    opened.keyboard.press("ArrowRight")  # there is nothing further
    expect(opened.locator(".card").last).to_be_focused()


def test_seed_of_a_picture_brings_it_back_alone_and_first(opened: Page):
    opened.locator(".card").nth(5).click()
    seed, shown = seeds(opened)[5], pixels(opened, "#picked-image")
    opened.click("#picked-use")
    wait_for_status(opened, f"seed {seed}")
    assert (seeds(opened)[0], pixels(opened, ".card img")) == (seed, shown)


def test_impossible_field_is_said_in_words_and_gets_the_focus(opened: Page):
    for field, value, words in (
        ("seed", "-1", "A seed is a whole number from 0 to 9007199254740991."),
        ("seed", "1e3", "A seed is a whole number"),
        ("count", "257", "The number of pictures is a whole number from 1 to 256."),
    ):
        opened.fill(f"#{field}", value)
        opened.press(f"#{field}", "Enter")
        expect(opened.get_by_role("alert")).to_contain_text(words)
        assert focused(opened) == field
        opened.fill(f"#{field}", "1")
        opened.press(f"#{field}", "Enter")
        expect(opened.locator("#error")).to_be_hidden()


def test_error_of_the_endpoint_is_said_in_its_own_words(opened: Page):
    # The page's own fields allow nothing that is refused, so one is widened behind its back.
    opened.evaluate("document.getElementById('truncation').min = 0")
    opened.locator("#truncation").fill("0")
    expect(opened.get_by_role("alert")).to_contain_text("truncation cannot be 0")
    opened.locator("#truncation").fill("1")
    expect(opened.locator("#error")).to_be_hidden()
    assert all("400" in line for line in opened.said)


def test_endpoint_that_went_away_is_said_in_words(page: Page):
    with served(create_app(Shelf([engine_of_classes("one", "two")]))) as url:
        page.goto(url)
        page.wait_for_selector(".card img")
    page.click("#dice")
    expect(page.get_by_role("alert")).to_contain_text("The endpoint does not answer.")


def test_class_that_looks_like_html_is_only_text(page: Page):
    names = ("<img src=x onerror=document.title='owned'>", "</option><script>alert(1)</script>")
    with served(create_app(Shelf([engine_of_classes(*names)]))) as url:
        page.goto(url)
        page.wait_for_selector(".card img")
        for name in names:
            page.select_option("#class", label=name)
            wait_for_status(page, f"of {name}")
            page.locator(".card").first.click()
            assert page.locator("#picked-class").inner_text() == name
        assert page.locator("img[src=x], .card script").count() == 0
        assert page.title() == "distgen playground"
        assert page.said == []


def test_class_that_cannot_be_named_is_asked_for_by_number(page: Page):
    names = ("random", "class:7", "A b", "a-B", "", "plain")
    with served(create_app(Shelf([engine_of_classes(*names)]))) as url:
        page.goto(url)
        page.wait_for_selector(".card img")
        for label, prompt in enumerate(
            ["random", "class:1", "class:2", "class:3", "class:4", "plain"]
        ):
            with page.expect_response("**/v1/images/generations") as answered:
                page.select_option("#class", str(label))
            assert answered.value.request.post_data_json["prompt"] == prompt
            assert {image["label"] for image in answered.value.json()["data"]} == {label}
        with page.expect_response("**/v1/images/generations") as answered:
            page.select_option("#class", "any")
        assert len({image["label"] for image in answered.value.json()["data"]}) > 1


def test_key_is_asked_for_only_where_the_endpoint_wants_one(page: Page, opened: Page):
    expect(opened.locator("#key-panel")).to_be_hidden()
    app = create_app(Shelf([engine_of_classes("one", "two")]))

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if (
            scope.get("path", "").startswith("/v1")
            and headers.get(b"authorization") != b"Bearer yes"
        ):
            error = RequestError("This key is not known. Send another one.", status=401)
            return await JSONResponse(error.body(), 401)(scope, receive, send)
        return await app(scope, receive, send)

    with served(guarded) as url:
        page.goto(url)
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type("no")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This key is not known. Send another one.")
        page.fill("#key", "yes")
        page.keyboard.press("Enter")
        expect(page.locator(".card")).to_have_count(16)
        expect(page.locator("#key-panel")).to_be_hidden()
        expect(page.locator("#code")).to_contain_text("Bearer $DISTGEN_API_KEY")
        assert page.evaluate(
            "[localStorage.length, document.cookie, location.href.includes('yes')]"
        ) == [0, "", False]
        page.reload()
        expect(page.locator(".card")).to_have_count(16)
