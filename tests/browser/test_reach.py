"""The page by keyboard alone, on a phone, in the dark, and for a screen reader."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.looking import focused

_NAMELESS = """() => [...document.querySelectorAll("input, select, button, canvas, [role=listbox]")]
  .filter(e => e.checkVisibility())
  .filter(e => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
  .map(e => e.id)"""
_WIDER = """() => [...document.querySelectorAll("body *")]
  .filter(e => e.checkVisibility() && !e.closest("pre") && !e.matches(".unseen, .skip"))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.id || e.className || e.tagName)"""


def test_every_control_is_reached_by_tab_in_reading_order(opened: Page):
    opened.locator(".card").nth(0).click()
    opened.locator(".card").nth(1).click()
    expect(opened.locator("#latents-section")).to_be_visible()
    expect(opened.locator("#blend-step")).to_be_visible()
    controls = opened.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, pre, .card")]
          .filter(e => e.checkVisibility() && !e.disabled && e.tabIndex >= 0)
          .map(e => e.id || e.className || e.textContent)"""
    )
    opened.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    opened.focus(".skip")
    reached = [focused(opened)]
    for _ in controls[1:]:
        opened.keyboard.press("Tab")
        reached.append(
            opened.evaluate("(e => e.id || e.className || e.textContent)(document.activeElement)")
        )
    assert reached == controls
    for needed in ("model", "class", "seed", "dice", "count", "format", "truncation", "copy"):
        assert needed in reached


def test_nothing_is_without_a_name(opened: Page):
    opened.locator(".card").nth(2).click()
    expect(opened.locator("#latents-section")).to_be_visible()
    assert opened.evaluate(_NAMELESS) == []
    assert opened.locator("img:not([alt])").count() == 0
    assert opened.locator("img:visible[alt='']").count() == 0
    assert opened.locator("[role=status], [aria-live]").count() >= 1
    assert (
        opened.evaluate(
            """() => [...document.querySelectorAll("[aria-describedby], [aria-labelledby], [for]")]
          .flatMap(e => ["aria-describedby", "aria-labelledby", "for"].map(n => e.getAttribute(n)))
          .filter(id => id && !document.getElementById(id))"""
        )
        == []
    )


@pytest.mark.parametrize("path", ["", "docs"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_needs_scrolling_sideways(page: Page, endpoint: str, path: str, width: int):
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(endpoint + path)
    if not path:
        page.wait_for_selector(".card img")
        page.locator(".card").nth(0).click()
        expect(page.locator("#latents-section")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_WIDER) == []
    assert page.said == []


def test_the_page_is_dark_where_people_want_it(browser: Browser, endpoint: str):
    seen = {}
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(endpoint)
        seen[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        tab.close()
    assert seen["light"] == "rgb(251, 250, 247)"
    assert seen["dark"] == "rgb(20, 24, 28)"
