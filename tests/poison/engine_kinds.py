"""What an engine can do to one sample, and what the run must say of it.

Each kind is asked for by the question itself: `problem` repeats a mark so many times that the
engine's tokens give the kind away, whatever the tokenizer. `faults` is an aiohttp middleware that
does it; `install` puts it into an embedded engine (see `hook/sitecustomize.py`), and any server of
the same endpoints may use it, too. Nothing here is of an outside engine: the faults are our own.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from common.http_gate import Gate

FIRST_COUNT = 12  # of the mark; ordinary prompts repeat no token so often
MARK = " ?"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fault = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class EngineKind:
    """One fault.

    Args:
        reason: a part of what quarantine.jsonl must say.
    """

    name: str
    fault: Fault
    reason: str


async def _refuses(request: web.Request, go_on: Handler) -> web.StreamResponse:
    return web.json_response({"error": {"message": "no such prompt"}}, status=400)


async def _fails(request: web.Request, go_on: Handler) -> web.StreamResponse:
    return web.Response(text="Internal Server Error", status=500)


async def _is_busy(request: web.Request, go_on: Handler) -> web.StreamResponse:
    return web.Response(text="retry later", status=503)


async def _hangs(request: web.Request, go_on: Handler) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _dies(request: web.Request, go_on: Handler) -> web.StreamResponse:
    os._exit(9)


async def _hangs_up(request: web.Request, go_on: Handler) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    raise ConnectionResetError


async def _talks_nonsense(request: web.Request, go_on: Handler) -> web.StreamResponse:
    return web.Response(text="<html>")


def _changed(change: Callable[[list[dict[str, Any]]], Any]) -> Fault:
    """The right answer with something wrong in it."""

    async def answer(request: web.Request, go_on: Handler) -> web.StreamResponse:
        right = await go_on(request)
        assert isinstance(right, web.Response) and isinstance(right.body, bytes)
        results = json.loads(right.body)
        return web.Response(
            text=json.dumps(change(results)), content_type="application/json"
        )  # json.dumps writes NaN as it is

    return answer


def _aborted(results: list[dict[str, Any]]) -> Any:
    results[0]["meta_info"]["finish_reason"] = {"type": "abort"}
    return results


def _with(results: list[dict[str, Any]], token_ids: list[int], logprob: float) -> Any:
    first = results[0]
    first["output_ids"] = token_ids
    pairs = [[logprob, token, None] for token in token_ids]
    first["meta_info"]["output_token_logprobs"] = pairs
    version = first["meta_info"]["weight_version"]
    spans = [{"version": version, "start": 0, "end": len(token_ids)}] if token_ids else []
    first["meta_info"]["weight_versions"] = spans
    return results


_MANY = 4096
KINDS = (
    EngineKind("400", _refuses, "/generate: HTTP 400: no such prompt"),
    EngineKind("500", _fails, "/generate: HTTP 500: Internal Server Error"),
    EngineKind("503", _is_busy, "/generate: HTTP 503: retry later (nothing else"),
    EngineKind("abort", _changed(_aborted), "cut short by the engine itself (nothing else"),
    EngineKind("hang", _hangs, "/generate: no answer within 6 s"),
    EngineKind("death", _dies, "rollout-0: the engine died (exit code 9) (nothing else"),
    EngineKind("hang up", _hangs_up, "Server disconnected"),
    EngineKind("not JSON", _talks_nonsense, "/generate: the answer is not JSON: b'<html>'"),
    EngineKind("no meta_info", _changed(lambda found: [{}] * len(found)), "KeyError: 'meta_info'"),
    EngineKind("one less", _changed(lambda found: found[1:]), "3 responses, asked for 4"),
    EngineKind("NaN", _changed(lambda found: _with(found, [5], float("nan"))), "must be finite"),
    EngineKind("empty", _changed(lambda found: _with(found, [], 0.0)), "empty response"),
    EngineKind(
        "too long",
        _changed(lambda found: _with(found, [5] * _MANY, -1.0)),
        f"{_MANY} tokens, asked for 12 at most",
    ),
)  # fmt: skip


def problem(kind: EngineKind) -> str:
    """The question that asks for it."""
    return "<image>" + MARK * (FIRST_COUNT + KINDS.index(kind))


def kind_of(token_ids: list[int]) -> EngineKind | None:
    """What a prompt asks for."""
    ((_, count),) = Counter(token_ids).most_common(1)
    return KINDS[count - FIRST_COUNT] if 0 <= count - FIRST_COUNT < len(KINDS) else None


@web.middleware
async def faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path != "/generate":
        return await handler(request)
    kind = kind_of((await request.json())["input_ids"])
    return await (handler(request) if kind is None else kind.fault(request, handler))


def install() -> None:
    """Into every embedded engine of this process."""
    from rollout.embedded.server import EngineServer

    application = EngineServer.application

    def with_faults(server: EngineServer, gate: Gate, **options: bool) -> web.Application:
        app = application(server, gate, **options)
        app.middlewares.append(faults)  # behind the gate
        return app

    EngineServer.application = with_faults  # type: ignore[method-assign]
