"""Another user of the machine tries every port, request, socket and file of a running quickstart.

    pytest -m slow -rP tests/security/test_another_user.py

prints the table: who listens where, what was asked, what came back. Needs root, to become somebody
else. The run must go on, and stop in good order, as if nobody had come.
"""

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from broker import protocol
from tests.deploy.quickstart.support import SMALL, TIMEOUT_S, Launched
from tests.security.doors import Port, command_of, tcp_ports, unix_sockets
from tests.security.wishes import (
    TURNED_AWAY,
    Tried,
    Wish,
    broker_requests,
    broker_wish,
    embedded_routes,
    http_wishes,
    listen_wish,
    ray_wishes,
    table,
    try_all,
)

EAR = [("GET", "/status"), ("POST", "/scale"), ("GET", "/")]
SCRAPE = [("GET", "/metrics"), ("GET", "/")]
RAY = ("gcs_server", "raylet", "ray::", "/ray/")  # parts of its command lines
NO_WAY = {"PermissionError", "FileNotFoundError"}


def test_every_request_of_ours_is_among_the_wishes() -> None:
    assert {type(request).__name__ for request in broker_requests()} == set(protocol.REQUESTS)
    weights = [path for method, path in embedded_routes() if method == "POST" and "weight" in path]
    assert len(weights) >= 7


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where everybody can enter: what protects a run must be the run's own."""
    folder = Path(tempfile.mkdtemp(prefix="vopd-open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def run(open_folder: Path) -> Iterator[Launched]:
    """A quickstart that is at its first steps."""
    before = os.umask(0o022)
    key = open_folder / "scrape.key"
    key.touch(0o600)
    key.write_text(token_hex(32))
    try:
        options = ("--learner.max_steps", "1000", "--evaluation.every_steps", "0")
        options += ("--scrape.key_file", str(key))
        run = Launched(open_folder / "run", *SMALL, *options)
    finally:
        os.umask(before)
    try:
        run.wait_for_step(1)
        yield run
    finally:
        run.process.kill()
        run.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 120)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_he_is_turned_away_everywhere_and_the_run_goes_on(run: Launched) -> None:
    pids = [run.process.pid, *run.pids()]
    ports = by_protocol(run, tcp_ports(pids))
    assert all(port.is_on_loopback for kind in ports.values() for port in kind)
    assert len(ports["engine"]) == len(ports["launcher"]) == len(ports["broker"]) == 1
    assert len(ports["scrape"]) == 4

    tried = try_all([*port_wishes(ports), *other_wishes(run, pids)])
    print(table(tried))
    for one in tried:
        assert is_closed(one, run), one
    answers = [one.answer for one in tried if one.where.startswith("ray ")]
    assert "UNAUTHENTICATED" in answers and "OK" not in answers
    no_secret_is_told(run, pids)

    step = max(row["step"] for row in run.metrics())
    run.wait_for_step(int(step) + 2)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130, run.output()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (run.folder / "checkpoints" / f"step-{summary['steps']:06d}").is_dir()
    assert {entry["restarts"] for entry in run.entries()} == {0}
    assert not list((run.folder / "keys").glob("*.token")), "the keys of ended engines are gone"


def by_protocol(run: Launched, ports: list[Port]) -> dict[str, list[Port]]:
    """Every port that listens, by who speaks there. "push" is torch's rendezvous, and gloo."""
    ear = json.loads((run.folder / "launcher.json").read_text())["address"]
    scraped = "".join(file.read_text() for file in (run.folder / "scrape").iterdir())
    found: dict[str, list[Port]] = {
        kind: [] for kind in ("engine", "launcher", "scrape", "broker", "ray", "push")
    }
    for port in ports:
        if "rollout.embedded" in port.command and f"--port {port.port} " in port.command:
            kind = "engine"
        elif ear.endswith(f":{port.port}"):
            kind = "launcher"
        elif f':{port.port}"' in scraped:
            kind = "scrape"
        elif "broker.main" in port.command:
            kind = "broker"
        elif port.pid == run.process.pid or any(part in port.command for part in RAY):
            kind = "ray"
        else:
            kind = "push"
            assert "rollout.embedded" in port.command or "learner.main" in port.command, port
        found[kind].append(port)
    return found


def port_wishes(ports: dict[str, list[Port]]) -> list[tuple[str, Wish]]:
    asked = {
        "engine": lambda port: http_wishes(port, embedded_routes()),
        "launcher": lambda port: http_wishes(port, EAR),
        "scrape": lambda port: http_wishes(port, SCRAPE),
        "broker": lambda port: [broker_wish(port)],
        "ray": ray_wishes,
        "push": lambda port: [listen_wish(port)],
    }
    return [
        (f"{kind} {port.host}:{port.port}", wish)
        for kind, found in ports.items()
        for port in found
        for wish in asked[kind](port)
    ]


def other_wishes(run: Launched, pids: list[int]) -> list[tuple[str, Wish]]:
    folders = [run.folder, *sorted(Path("/tmp").glob(f"vopd-ray-{run.process.pid}-*"))]
    return [
        *(("files", {"kind": "files", "folder": str(folder)}) for folder in folders),
        *(("socket", {"kind": "unix", "path": path}) for path in unix_sockets(pids)),
        *(("process", {"kind": "process", "pid": pid}) for pid in pids),
    ]


def is_closed(one: Tried, run: Launched) -> bool:
    """Whether this door is shut to him."""
    if one.approach:
        return bool(one.answer[0] == TURNED_AWAY[one.approach])
    place = one.where.partition(" ")[0]
    if place == "files":
        return bool(one.answer["readable"] == one.answer["writable"] == [])
    if place == "socket":
        return one.answer in NO_WAY
    if place == "ray":
        return bool(one.answer != "OK")
    return not one.answer  # the broker and pushes say nothing, a process shows nothing


def no_secret_is_told(run: Launched, pids: list[int]) -> None:
    """On a command line, which everybody can see."""
    secrets = secrets_of(run)
    assert len(secrets) >= 2
    commands = [command_of(pid) for pid in pids]
    assert not any(secret in command for secret in secrets for command in commands)


def secrets_of(run: Launched) -> set[str]:
    """Whatever would let somebody in."""
    found = {json.loads((run.folder / "launcher.json").read_text())["token"]}
    found.add((run.folder.parent / "scrape.key").read_text())
    for path in (run.folder / "keys").glob("*"):
        found.update(re.findall(r'[^\s"]{32,}', path.read_text()))
    return found
