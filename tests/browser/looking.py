"""What tests read from a page."""

from __future__ import annotations

from playwright.sync_api import Page, expect

_PIXELS = """image => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""


def pixels(page: Page, selector: str) -> str:
    """The pixels that a picture shows, as text that differs where they do."""
    image = page.locator(selector).first
    image.evaluate("image => image.decode()")
    made: str = image.evaluate(_PIXELS)
    return made


def seeds(page: Page) -> list[str]:
    """The seeds under the pictures."""
    return page.locator(".card .seed").all_inner_texts()


def focused(page: Page) -> str:
    """The id of what has the focus, or its class where it has none."""
    name: str = page.evaluate("document.activeElement.id || document.activeElement.className")
    return name


def wait_for_status(page: Page, text: str) -> None:
    """Until the status line says it."""
    expect(page.locator("#status")).to_contain_text(text)
