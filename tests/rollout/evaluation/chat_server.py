"""A server of OpenAI's chat completions whose every answer a test decides."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from common.network import listening_socket

MODEL = "the-model"


@dataclass
class Fault:
    """What a request meets instead of an answer."""

    kind: str  # status | hang | reset | cut | nonsense
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Said:
    """A completion."""

    text: str
    finish_reason: str = "stop"


Answering = Callable[[str, int], "Said | Fault"]  # of the text, and how often it was asked before


class ChatServer:
    """Answers as `answering` says, and remembers the bodies that it got."""

    def __init__(self, answering: Answering, key: str | None = None) -> None:
        self._answering = answering
        self._key = key
        self.bodies: list[dict[str, Any]] = []
        self.most_at_once = self._at_once = 0
        self.models = [MODEL]
        self.context: int | None = None
        self.url = ""

    @property
    def texts(self) -> list[str]:
        return [text_of(body) for body in self.bodies]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["ChatServer"]:
        app = web.Application(client_max_size=2**26)
        app.add_routes([web.post("/v1/chat/completions", self._chat)])
        app.add_routes([web.get("/v1/models", self._models)])
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        with listening_socket("127.0.0.1") as port:
            try:
                await web.SockSite(runner, port).start()
                self.url = f"http://127.0.0.1:{port.getsockname()[1]}/v1"
                yield self
            finally:
                await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        if self._is_stranger(request):
            return web.json_response({"error": {"message": "who are you"}}, status=401)
        more = {} if self.context is None else {"max_model_len": self.context}
        return web.json_response({"data": [{"id": name, **more} for name in self.models]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if self._is_stranger(request):
            return web.json_response({"error": {"message": "who are you"}}, status=401)
        body = await request.json()
        earlier = self.texts.count(text_of(body))
        self.bodies.append(body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(0)
            said = self._answering(text_of(body), earlier)
            if isinstance(said, Fault):
                return await _fault(request, said)
            return web.json_response(completion(said))
        finally:
            self._at_once -= 1

    def _is_stranger(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization")
        return self._key is not None and given != f"Bearer {self._key}"


def text_of(body: dict[str, Any]) -> str:
    parts = body["messages"][0]["content"]
    return " ".join(part["text"] for part in parts if part["type"] == "text")


def completion(said: Said) -> dict[str, Any]:
    message = {"role": "assistant", "content": said.text}
    choice = {"index": 0, "message": message, "finish_reason": said.finish_reason}
    return {"choices": [choice], "usage": {"completion_tokens": len(said.text.split())}}


async def _fault(request: web.Request, fault: Fault) -> web.StreamResponse:
    if fault.kind == "hang":
        await asyncio.Event().wait()
    if fault.kind in ("reset", "cut"):
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        if fault.kind == "cut":
            await response.prepare(request)
            await response.write(json.dumps(completion(Said("half")))[:20].encode())
        assert request.transport is not None
        request.transport.abort()
        return response
    if fault.kind == "nonsense":
        return web.Response(text="<html>a proxy's page</html>")
    error = {"error": {"message": f"fault {fault.status}"}}
    return web.json_response(error, status=fault.status, headers=fault.headers)
