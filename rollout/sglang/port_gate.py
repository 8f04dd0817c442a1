"""The gate before SGLang's HTTP server. launch.py reads this file by its path."""

import json
from typing import Any


class PortGate:
    """A gate before an ASGI application: lets a request through, or answers it.

    SGLang itself asks for its key on most routes, but neither on /health, /ready, /metrics and
    OPTIONS nor on a WebSocket, and looks at no Host or Origin.

    Args:
        gate: a common.http_gate.Gate.
    """

    def __init__(self, app: Any, gate: Any) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):  # the server's own start and end
            await self._app(scope, receive, send)
            return
        head = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        refusal = self._gate.refusal(head)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # not accepted yet: a 403
        else:
            await _answer(send, refusal.status, refusal.reason)


async def _answer(send: Any, status: int, reason: str) -> None:
    body = json.dumps({"error": {"message": reason, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
