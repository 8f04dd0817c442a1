"""A real browser, Chromium, driven by Playwright. Without one a test is skipped."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for as long as the block runs; no event loop may run beside it in this thread."""
    path = _browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def screenshot_of(page: Path, folder: Path, size: tuple[int, int]) -> Image.Image:
    """The upper part of a page, RGB.

    Args:
        folder: for the picture's file.
        size: of the window, in pixels.
    """
    shot = folder / f"{page.stem}.png"
    width, height = size
    with chromium() as browser:
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.goto(page.as_uri())
        shown.screenshot(path=shot)
    with Image.open(shot) as picture:
        return picture.convert("RGB")


def _browser() -> str:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None and not os.environ.get("VISION_OPD_REQUIRE_BROWSER"):
        pytest.skip("no Chromium on this machine")
    assert browser is not None, "VISION_OPD_REQUIRE_BROWSER is set, but there is no Chromium"
    return browser
