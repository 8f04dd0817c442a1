"""JSON bodies of requests and of refusals."""

import json
from typing import Any

from aiohttp import web

from rollout.embedded.requests import BadRequest


async def read_json(request: web.Request) -> dict[str, Any]:
    """The object in a request's body; {} when there is none. Raises BadRequest."""
    content = await request.read()
    if not content:
        return {}
    try:
        body = json.loads(content)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest("the body should be a JSON object")
    return body


def error_reply(status: int, message: str) -> web.Response:
    """A refusal as OpenAI's clients read it."""
    return web.json_response({"error": error_body(status, message)}, status=status)


def error_body(status: int, message: str) -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error", "code": status}
