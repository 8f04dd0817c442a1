"""The real Prometheus server and its promtool. Without them a test is skipped."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.network import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
_HOST = "127.0.0.1"


def program(name: str) -> str:
    """The path of prometheus or promtool."""
    found = shutil.which(name)
    if found is None and not os.environ.get("VISION_OPD_REQUIRE_PROMETHEUS"):
        pytest.skip(f"no {name} on this machine")
    assert found is not None, f"VISION_OPD_REQUIRE_PROMETHEUS is set, but there is no {name}"
    return found


def documented_config(targets: Path, key_file: Path | None = None) -> str:
    """The configuration in deploy/README.md, for the targets of one folder, asked often."""
    text = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    (config,) = [
        one for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "file_sd" in one
    ]
    for written, meant in [
        ("runs/mine/scrape", str(targets)),
        ("scrape_interval: 5s", "scrape_interval: 200ms"),
        ("refresh_interval: 10s", "refresh_interval: 1s"),
        ("# authorization", "authorization" if key_file else "# authorization"),
        ("scrape.key", str(key_file)),
    ]:
        assert written in config, written
        config = config.replace(written, meant)
    return str(config)


def complaints(exposition: str) -> str:
    """What promtool has to say about the text of a scrape; empty: nothing."""
    command = [program("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=exposition, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


class Prometheus:
    """A server that has started; ask it by its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://{_HOST}:{port}"

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=10) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def query(self, expression: str, time_s: float | None = None) -> list[dict[str, Any]]:
        """The series that answer an expression. Raises HTTPError: it cannot be parsed.

        Args:
            time_s: seconds since 1970; None means now.
        """
        when = {} if time_s is None else {"time": f"{time_s:.3f}"}
        return list(self._asked("query", query=expression, **when)["result"])

    def scrapes(self, selector: str) -> dict[float, float]:
        """The values of the one series that is selected, by the time of the scrape."""
        (series,) = self.query(f"{selector}[1h]")
        return {float(time_s): float(value) for time_s, value in series["values"]}

    def value(self, expression: str) -> float:
        """The one value that answers an expression now."""
        (series,) = self.query(expression)
        return float(series["value"][1])

    def targets(self) -> dict[str, dict[str, Any]]:
        """The processes that it knows, by their label."""
        found = self._asked("targets", state="active")["activeTargets"]
        return {target["labels"]["process"]: target for target in found}

    def scraped(self) -> set[str]:
        """The processes that it has read."""
        return {name for name, target in self.targets().items() if target["health"] == "up"}

    def _asked(self, path: str, **parameters: str) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success", answer
        return dict(answer["data"])


@contextlib.contextmanager
def running_prometheus(folder: Path, config: str) -> Iterator[Prometheus]:
    """A server with this configuration, that keeps its data in `folder`."""
    (folder / "prometheus.yml").write_text(config)
    port = free_port(_HOST)
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={_HOST}:{port}",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        server = Prometheus(port)
        wait_until(lambda: server.is_ready() or process.poll() is not None, report=log.read_text)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        process.terminate()
        process.wait(60)
