"""The running launcher's API: a small HTTP server on loopback, and its client.

RUN/launcher.json (for its owner alone) says where it is and holds the token that each request must
carry. It serves GET /status and POST /scale.
"""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from broker.protocol import Status
from common.errors import VisionOpdError
from common.files import replace_private
from common.http_gate import Gate
from common.http_port import http_port
from common.network import listening_socket

FILE = "launcher.json"
_HOST = "127.0.0.1"
_TIMEOUT_S = 10.0
_MAX_BYTES = 64 * 2**10


@dataclass(frozen=True)
class LauncherStatus:
    """What the launcher knows of its run."""

    broker: Status | None = None  # the broker's last answer; None: it has not been heard
    elapsed_s: float = 0.0  # since the launcher began
    waits: tuple[str, ...] = ()  # lines on what the run waits for


@contextlib.asynccontextmanager
async def listening(
    run_folder: Path,
    status: Callable[[], dict[str, Any]],
    scale: Callable[[dict[str, Any]], dict[str, Any]],
) -> AsyncIterator[None]:
    """Listen for as long as the block runs.

    Args:
        scale: what a POST /scale asks for in its JSON; VisionOpdError becomes its answer.
    """
    token = secrets.token_urlsafe(32)
    gate = Gate(_HOST, token)

    async def on_status(request: web.Request) -> web.Response:
        return web.json_response(status())

    async def on_scale(request: web.Request) -> web.Response:
        try:
            wish = await request.json()
            if not isinstance(wish, dict):
                raise VisionOpdError("the body is no JSON object")
            return web.json_response(scale(wish))
        except (VisionOpdError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)

    @web.middleware
    async def for_the_owner(request: web.Request, handler: Any) -> web.StreamResponse:
        if (refusal := gate.refusal(request.headers.items())) is not None:
            return web.json_response({"error": refusal.reason}, status=refusal.status)
        answer: web.StreamResponse = await handler(request)
        return answer

    app = web.Application(middlewares=[for_the_owner], client_max_size=_MAX_BYTES)
    app.router.add_get("/status", on_status)
    app.router.add_post("/scale", on_scale)
    listener = listening_socket(_HOST)
    address = f"http://{_HOST}:{listener.getsockname()[1]}"
    where = {"address": address, "token": token, "host": socket.gethostname()}
    document = json.dumps({**where, "pid": os.getpid()}, indent=1)
    async with http_port(app, listener):
        try:
            replace_private(run_folder / FILE, document.encode())
            yield
        finally:
            (run_folder / FILE).unlink(missing_ok=True)


async def ask(run_folder: Path, wish: dict[str, Any] | None = None) -> dict[str, Any]:
    """The launcher's status, or its answer to a wish to scale.

    Raises:
        VisionOpdError: it is not running (on this machine), or refuses.
    """
    where = _read(run_folder)
    headers = {"Authorization": f"Bearer {where['token']}"}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            path = where["address"] + ("/status" if wish is None else "/scale")
            method = "GET" if wish is None else "POST"
            async with session.request(method, path, json=wish) as reply:
                answer = await reply.json()
                if not isinstance(answer, dict):
                    raise ValueError("no JSON object")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise VisionOpdError(
            f"the launcher of {run_folder} does not answer ({type(error).__name__}). Fix: ask on "
            f"{where.get('host', 'the machine where it runs')}, or start it again: "
            f"deploy/launch_cluster.sh --config {run_folder}/config.toml --run.resume true"
        ) from error
    if "error" in answer:
        raise VisionOpdError(str(answer["error"]))
    return answer


async def ask_status(run_folder: Path) -> LauncherStatus:
    """The launcher's status.

    Raises:
        VisionOpdError: as `ask`; or it is of another version.
    """
    answer = await ask(run_folder)
    try:
        broker = answer["broker"] and Status.model_validate_json(answer["broker"])
        return LauncherStatus(
            broker or None, float(answer["elapsed_s"]), tuple(map(str, answer.get("waits", ())))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise VisionOpdError(
            f"the launcher of {run_folder} answers what is not understood here: "
            f"{str(error).partition(chr(10))[0]}. Fix: ask from the checkout that it was started in"
        ) from error


def _read(run_folder: Path) -> dict[str, str]:
    try:
        document = json.loads((run_folder / FILE).read_text(encoding="utf-8"))
        return {key: str(document[key]) for key in ("address", "token", "host")}
    except FileNotFoundError:
        raise VisionOpdError(
            f"no launcher runs {run_folder}. Fix: name the folder of a run that goes on"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VisionOpdError(f"{run_folder / FILE} cannot be read: {error}") from error
