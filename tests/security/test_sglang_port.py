"""Another user of the machine tries every road of a real SGLang server, as training starts it.

    pytest -m sglang -rP tests/security/test_sglang_port.py

prints the table. The roads are those that the server itself lists, and those that it does not list.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from common.engines.keys import bearer
from rollout.engine_process import EngineProcess, started_engine
from tests.rollout.support import data_url, png, run_config
from tests.security.doors import command_of, tcp_ports, unix_sockets
from tests.security.wishes import http_wishes, table, try_all
from tests.tiny_model import make_tiny_checkpoint

UNLISTED = [
    ("GET", "/health"), ("GET", "/health_generate"), ("GET", "/ready"), ("GET", "/metrics"),
    ("GET", "/openapi.json"), ("GET", "/docs"), ("OPTIONS", "/generate"), ("GET", "/v1/realtime"),
]  # fmt: skip
pytestmark = [
    pytest.mark.sglang,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineProcess]:
    folder = tmp_path_factory.mktemp("sglang")
    tree = run_config(make_tiny_checkpoint(folder / "model", seed=0), engine="sglang").model_dump()
    tree["run"]["folder"] = folder / "run"
    config = type(run_config(folder / "model")).model_validate(tree)
    async with started_engine(config, 0, folder / "run" / "logs", asyncio.Event()) as process:
        yield process


async def ask(engine: EngineProcess, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """With the key, as its owner."""
    async with (
        aiohttp.ClientSession(headers=bearer(engine.api_key)) as session,
        session.request(method, engine.url + path, json=body) as answer,
    ):
        return answer.status, await answer.text()


def pids_of(engine: EngineProcess) -> list[int]:
    """All processes of the server, which leads a session of its own."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "-s", str(engine.pid)], capture_output=True, text=True, check=True
    ).stdout
    return [int(word) for word in listed.split()]


async def test_every_road_is_closed_to_him_and_open_to_its_owner(engine: EngineProcess) -> None:
    status, text = await ask(engine, "GET", "/openapi.json")
    assert status == 200, text
    listed = [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, methods in json.loads(text)["paths"].items()
        for method in methods
    ]
    assert len(listed) > 60 and ("POST", "/generate") in listed
    (port,) = [p for p in tcp_ports(pids_of(engine)) if engine.url.endswith(f":{p.port}")]
    wishes = http_wishes(port, sorted({*listed, *UNLISTED}))
    tried = await asyncio.to_thread(try_all, [("sglang", wish) for wish in wishes])
    print(table(tried))
    # SGLang asks for its key before the PortGate looks at names and pages.
    assert [one for one in tried if one.answer[0] not in (401, 403)] == []
    assert {one.answer[0] for one in tried if one.asked == "http GET /metrics"} == {401, 403}
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect(f"{engine.url}/v1/realtime")
    assert refusal.value.status in (401, 403)  # the former without a library for WebSockets
    status, _ = await ask(engine, "GET", "/health")
    assert status == 200
    body = {"input_ids": [1, 7], "sampling_params": {"max_new_tokens": 1}}
    assert (await ask(engine, "POST", "/generate", body))[0] == 200


async def test_nothing_listens_off_loopback_and_no_socket_is_open(engine: EngineProcess) -> None:
    pids = pids_of(engine)
    ports = tcp_ports(pids)
    assert len(pids) >= 3 and len(ports) >= 2  # HTTP, and the rendezvous of its ranks
    assert [port for port in ports if not port.is_on_loopback] == []
    sockets = sorted(unix_sockets(pids))
    wishes = [("socket", {"kind": "unix", "path": path}) for path in sockets]
    assert sockets and {one.answer for one in try_all(wishes)} <= {
        "PermissionError",
        "FileNotFoundError",
    }


async def test_the_key_is_in_no_log_and_on_no_command_line(engine: EngineProcess) -> None:
    assert engine.api_key is not None and engine.key_file is not None
    assert not any(engine.api_key in command_of(pid) for pid in pids_of(engine))
    for log in Path(engine.key_file).parents[1].rglob("*.log"):
        assert engine.api_key not in log.read_text()


async def test_chat_takes_no_pictures_by_path_or_address(engine: EngineProcess) -> None:
    def question(url: str) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "Which digit?"},
        ]
        return {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 1}

    for url in ("/etc/hostname", "file:///etc/hostname", f"{engine.url}/picture.png"):
        status, answer = await ask(engine, "POST", "/v1/chat/completions", question(url))
        assert status == 400 and "data URLs alone" in answer, (url, answer)
    picture = data_url(png(64, 64))
    status, answer = await ask(engine, "POST", "/v1/chat/completions", question(picture))
    assert status == 200, answer
