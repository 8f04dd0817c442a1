"""The inspector's command as a process of its own."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen


class Inspector:
    """One that serves; `url` is where, as it printed it."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "deploy.inspect", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.end()

    def ask(self, question: str, **parameters: object) -> dict[str, Any]:
        """An answer of its API."""
        with urlopen(f"{self.url}api/{question}?{urlencode(parameters)}", timeout=60) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer

    def end(self) -> str:
        """Wait for its end; what it said on standard error."""
        return self.process.communicate(timeout=60)[1]


@contextlib.contextmanager
def inspecting(*arguments: str | Path) -> Iterator[Inspector]:
    inspector = Inspector(*arguments, "--port", "0")
    try:
        yield inspector
    finally:
        inspector.process.terminate()
        assert inspector.end() == ""
        assert inspector.process.returncode == 0
