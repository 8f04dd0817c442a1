"""A page as a real browser shows it. Without one a test is skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)


def document_of(page: Path, folder: Path) -> str:
    """The document that the browser made of a page.

    Args:
        folder: for the browser's own files.
    """
    return _browse(page, folder, "--dump-dom")


def screenshot_of(page: Path, folder: Path, size: tuple[int, int]) -> Image.Image:
    """Its upper part, RGB.

    Args:
        size: of the window, in pixels.
    """
    shot = folder / f"{page.stem}.png"
    _browse(page, folder, f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}")
    with Image.open(shot) as picture:
        return picture.convert("RGB")


def _browse(page: Path, folder: Path, *arguments: str) -> str:
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [_browser(), *_FLAGS, profile, *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def _browser() -> str:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None and not os.environ.get("VISION_OPD_REQUIRE_BROWSER"):
        pytest.skip("no Chromium on this machine")
    assert browser is not None, "VISION_OPD_REQUIRE_BROWSER is set, but there is no Chromium"
    return browser
