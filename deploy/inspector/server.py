"""The server of the inspector's page: files of the page, and answers in JSON. It only reads.

Who may ask is `common.http_gate`'s rule: the Host is the address that is listened on, and no other
web site asks. Off loopback a token is asked for too: the address that is printed carries it once,
and the browser keeps it as a cookie. The page itself holds nothing of a run and needs no token.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web

from common.errors import VisionOpdError
from common.http_gate import Gate, GateRefusal
from common.http_port import http_port
from common.network import listening_socket
from deploy.inspector.answers import InspectorAnswers, as_json
from deploy.inspector.query import number_of
from deploy.inspector.scores import TokenScores
from deploy.inspector.web_files import web_files

logger = logging.getLogger(__name__)
LIMIT_S = 60.0  # for one answer
_THREADS = 4  # questions that are worked on at once
_CONNECTIONS = 64  # at once; a browser opens some six for a page
_SLOW = "explain"  # takes seconds of a long run, on a thread of its own: no other waits for it
_SMALL_BYTES = 1024  # what is not worth compressing
_COOKIE = "inspector-token"  # and the port: browsers give a cookie to every port of a host
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
Result = TypeVar("Result")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(
    answers: InspectorAnswers,
    scores: TokenScores,
    host: str,
    port: int,
    token: str | None,
    limit_s: float = LIMIT_S,
) -> AsyncIterator[int]:
    """Serve for as long as the block runs; gives the port.

    Args:
        host: an address or name of this machine.
        port: 0 for a free one.
        token: what a browser must have been given. None means that none is asked for.
        limit_s: an answer that takes longer is given up.

    Raises:
        OSError: it cannot listen there.
    """
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="answer")
    slow = ThreadPoolExecutor(1, thread_name_prefix="slow-answer")
    gates = Gate(host, None), Gate(host, token)
    pages = _Pages(answers, scores, gates, token, (pool, slow), limit_s)
    try:
        listener = listening_socket(host, port)
        async with http_port(pages.app(), listener, _CONNECTIONS):
            yield listener.getsockname()[1]
    finally:
        for executor in (pool, slow):
            executor.shutdown(wait=False, cancel_futures=True)


class _Pages:
    """The handlers.

    Args:
        gates: who may have the page's own files, and who answers.
        pools: for questions, and for the one that takes seconds.
    """

    def __init__(
        self,
        answers: InspectorAnswers,
        scores: TokenScores,
        gates: tuple[Gate, Gate],
        token: str | None,
        pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor],
        limit_s: float,
    ) -> None:
        self._answers, self._scores = answers, scores
        self._door, self._gate = gates
        self._pool, self._slow_pool = pools
        self._token, self._limit_s = token, limit_s
        self._files = {file.name: file for file in web_files()}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._for_readers])
        app.router.add_get("/", self._on_file)
        app.router.add_get("/{file}", self._on_file)
        app.router.add_get("/api/picture", self._on_picture)
        app.router.add_get("/api/scores", self._on_scores)
        app.router.add_get("/api/{question}", self._on_question)
        return app

    @web.middleware
    async def _for_readers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn others away, before any work; words for whatever goes wrong."""
        refusal = self._refusal(request)
        if refusal is not None:
            response: web.StreamResponse = _error(refusal.status, refusal.reason)
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = _error(error.status, f"{request.method} {request.path}: {error.reason}")
            except Exception as error:  # whatever a damaged run folder does to one answer
                logger.exception("%s", request.path_qs)
                what = f"{type(error).__name__}: {error}"
                response = _error(500, f"{request.path}: {what}. Is a file of the run damaged?")
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    def _refusal(self, request: web.Request) -> GateRefusal | None:
        own = f"{request.scheme}://{request.host}"  # the gate looks at the Host itself
        head = [
            (name, value)
            for name, value in request.headers.items()
            if (name.lower(), value) != ("origin", own)  # browsers send it for our own modules
        ]
        if request.path.startswith("/api/"):
            return self._gate.refusal([*head, *_shown_token(request)])
        if request.headers.get("Sec-Fetch-Mode") == "navigate" and (
            request.headers.get("Sec-Fetch-Dest") == "document"
        ):  # a link to the page, from wherever, may be followed: it holds nothing of a run
            head = [(name, value) for name, value in head if name.lower() != "sec-fetch-site"]
        return self._door.refusal(head)

    async def _on_file(self, request: web.Request) -> web.Response:
        if self._token is not None and "token" in request.query:
            return self._with_cookie(request)
        file = self._files.get(request.match_info.get("file", "index.html"))
        if file is None:
            raise web.HTTPNotFound
        headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        return await self._packed(file.content, file.media_type, headers)

    def _with_cookie(self, request: web.Request) -> web.Response:
        given = ("Authorization", f"Bearer {request.query['token']}")
        head = [pair for pair in request.headers.items() if pair[0].lower() == "host"]
        refusal = self._gate.refusal([*head, given])
        if refusal is not None:
            return _error(refusal.status, "another token. Fix: use the address that was printed")
        response = web.Response(status=303, headers={"Location": "/"})
        assert self._token is not None
        name = _cookie_name(request)
        response.set_cookie(name, self._token, httponly=True, samesite="Strict", path="/")
        return response

    async def _on_question(self, request: web.Request) -> web.Response:
        name, parameters = request.match_info["question"], dict(request.query)
        try:
            pool = self._slow_pool if name == _SLOW else self._pool
            answer = await self._in_thread(lambda: self._answers.to(name, parameters), pool)
        except (VisionOpdError, OSError, TimeoutError) as error:
            return self._failed(name, error)
        if answer is None:
            raise web.HTTPNotFound
        return await self._packed(as_json(answer).encode(), "application/json", {})

    async def _on_picture(self, request: web.Request) -> web.Response:
        parameters = dict(request.query)
        try:
            content, kind = await self._in_thread(lambda: self._answers.picture(parameters))
        except (VisionOpdError, OSError, TimeoutError) as error:
            return self._failed("picture", error)
        # The address names no run: another one may be served at it later.
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, content_type=f"image/{kind}", headers=headers)

    async def _on_scores(self, request: web.Request) -> web.Response:
        """What is kept, or that it is being computed: the page asks again."""
        parameters = dict(request.query)
        try:
            index = number_of("index", parameters.get("index", ""))
            run = self._answers.run(parameters)
            group = await self._in_thread(lambda: run.group(parameters))
            async with asyncio.timeout(self._limit_s):
                folder = run.index_folder / "scores"
                answer = await self._scores.scores(run.folder, folder, group, index)
        except (VisionOpdError, OSError, TimeoutError) as error:
            return self._failed("scores", error)
        return await self._packed(as_json(answer).encode(), "application/json", {})

    async def _in_thread(
        self, work: Callable[[], Result], pool: ThreadPoolExecutor | None = None
    ) -> Result:
        async with asyncio.timeout(self._limit_s):
            return await asyncio.get_running_loop().run_in_executor(pool or self._pool, work)

    def _failed(self, name: str, error: Exception) -> web.Response:
        if isinstance(error, TimeoutError):
            return _error(503, f"{name}: no answer within {self._limit_s:.0f} s. Fix: try again")
        if isinstance(error, OSError):
            return _error(404, f"{name}: {error}")
        return _error(400, str(error))

    async def _packed(self, content: bytes, kind: str, headers: dict[str, str]) -> web.Response:
        response = web.Response(body=content, content_type=kind, charset="utf-8", headers=headers)
        if len(content) >= _SMALL_BYTES:
            response.enable_compression()
        return response


def _shown_token(request: web.Request) -> list[tuple[str, str]]:
    """The cookie as the header that the gate reads; a header that was sent wins."""
    cookie = request.cookies.get(_cookie_name(request))
    if cookie is None or "Authorization" in request.headers:
        return []
    return [("Authorization", f"Bearer {cookie}")]


def _cookie_name(request: web.Request) -> str:
    port = request.host.rpartition(":")[2]  # as the browser knows it, through a tunnel, too
    return f"{_COOKIE}-{port}" if port.isascii() and port.isdecimal() else _COOKIE


def _error(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)
