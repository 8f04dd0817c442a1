"""The launcher's ear and its client, over real HTTP."""

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import deploy.supervision.launcher_api
from common.errors import ConfigError, VisionOpdError
from deploy.supervision.launcher_api import LauncherStatus, ask, ask_status, listening

STATUS = {"broker": None, "elapsed_s": 1.5}


def scale(wish: dict[str, Any]) -> dict[str, Any]:
    if wish == {"rollout": 0}:
        raise ConfigError("rollout = 0: a run needs one")
    return {"before": 2, **wish}


@pytest.fixture
async def where(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    async with listening(tmp_path, lambda: STATUS, scale):
        yield json.loads((tmp_path / "launcher.json").read_text())


async def sent(
    where: dict[str, str], path: str, token: str | None, body: bytes | None = None
) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, where["address"] + path, data=body) as reply:
            return reply.status, await reply.text()


@pytest.mark.usefixtures("where")
async def test_the_owner_is_answered(tmp_path: Path) -> None:
    assert await ask(tmp_path) == STATUS
    assert await ask(tmp_path, {"rollout": 3}) == {"before": 2, "rollout": 3}


@pytest.mark.usefixtures("where")
async def test_a_refused_wish_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(VisionOpdError, match=r"^rollout = 0: a run needs one$"):
        await ask(tmp_path, {"rollout": 0})


@pytest.mark.parametrize("token", [None, "", "wrong", "ä"])
@pytest.mark.parametrize("path", ["/status", "/scale", "/other"])
async def test_nobody_else_is_answered(where: dict[str, str], token: str | None, path: str) -> None:
    body = b'{"rollout": 3}' if path == "/scale" else None
    status, answer = await sent(where, path, token, body)
    assert status == 401 and answer.startswith('{"error": "no key, or another one. Fix: ')


@pytest.mark.parametrize(
    "head", [{"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}]
)
async def test_web_pages_and_other_names_are_turned_away(
    where: dict[str, str], head: dict[str, str]
) -> None:
    headers = {"Authorization": f"Bearer {where['token']}", **head}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(where["address"] + "/status") as reply,
    ):
        assert reply.status == 403


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", 400), (b"[1]", 400), (b"\xff", 400), (b"", 400), (b"1" * 2**17, 413)],
)
async def test_a_body_that_is_none_is_refused(
    where: dict[str, str], tmp_path: Path, body: bytes, code: int
) -> None:
    assert (await sent(where, "/scale", where["token"], body))[0] == code
    assert await ask(tmp_path) == STATUS, "the server goes on"


async def test_the_token_is_for_the_owner_alone_and_gone_with_the_run(tmp_path: Path) -> None:
    file = tmp_path / "launcher.json"
    file.write_text("{}")  # left by a launcher that was killed, readable for all
    file.chmod(0o644)
    tokens = set()
    for _ in range(2):
        async with listening(tmp_path, lambda: STATUS, scale):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            known = json.loads(file.read_text())
            assert known["address"].startswith("http://127.0.0.1:")
            tokens.add(known["token"])
        assert list(tmp_path.iterdir()) == []
    assert len(tokens) == 2 and all(len(token) > 40 for token in tokens)


async def test_the_file_is_gone_after_a_failure_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        async with listening(tmp_path, lambda: STATUS, scale):
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


async def test_a_client_that_stays_connected_does_not_keep_the_run_from_its_end(
    tmp_path: Path,
) -> None:
    async with aiohttp.ClientSession() as session:
        async with listening(tmp_path, lambda: STATUS, scale):
            address = json.loads((tmp_path / "launcher.json").read_text())["address"]
            async with session.get(address + "/status") as reply:
                assert reply.status == 401
            kept = await session.request("GET", address + "/status")
        kept.close()


async def test_those_who_only_connect_are_few(where: dict[str, str]) -> None:
    host, port = where["address"].removeprefix("http://").split(":")
    async with contextlib.AsyncExitStack() as silent, asyncio.timeout(60):
        for _ in range(16 + 1):
            reader, writer = await asyncio.open_connection(host, int(port))
            silent.callback(writer.close)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


async def test_a_folder_without_a_launcher_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(VisionOpdError, match=r"no launcher runs .*Fix: name the folder"):
        await ask(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"address": 1}'])
async def test_a_damaged_file_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "launcher.json").write_text(content)
    with pytest.raises(VisionOpdError, match=r"launcher\.json cannot be read"):
        await ask(tmp_path)


async def test_a_launcher_that_was_killed_is_a_clear_error(tmp_path: Path) -> None:
    async with listening(tmp_path, lambda: STATUS, scale):
        left = (tmp_path / "launcher.json").read_text()
    (tmp_path / "launcher.json").write_text(left)
    host = json.loads(left)["host"]
    told = rf"does not answer \(Client\w+\)\. Fix: ask on {host}, or start it .*--run\.resume true"
    with pytest.raises(VisionOpdError, match=told):
        await ask(tmp_path)


async def test_a_launcher_that_hangs_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy.supervision.launcher_api, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connects, and says nothing
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        known = {"address": address, "token": "t", "host": "here"}
        (tmp_path / "launcher.json").write_text(json.dumps(known))
        with pytest.raises(VisionOpdError, match="does not answer"):
            await ask(tmp_path)


@pytest.mark.parametrize("answer", [{}, {"broker": "{", "elapsed_s": 1}, {"broker": None}, [1]])
async def test_an_answer_of_another_program_or_version_is_a_clear_error(
    tmp_path: Path, answer: Any
) -> None:
    async with listening(tmp_path, lambda: answer, scale):
        with pytest.raises(VisionOpdError, match=r"not understood here|does not answer"):
            await ask_status(tmp_path)


async def test_a_status_is_typed(tmp_path: Path) -> None:
    answer = {"broker": None, "elapsed_s": 2, "waits": ["for the broker"]}
    async with listening(tmp_path, lambda: answer, scale):
        assert await ask_status(tmp_path) == LauncherStatus(None, 2.0, ("for the broker",))
