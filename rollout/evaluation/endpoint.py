"""A client of any server with OpenAI's chat completions; what went wrong is tried again.

answered                              an Answer
429, 5xx, 408, no connection, cut,    tried again after a pause that doubles, or the one that
no completion in it                   the server asks for (Retry-After); then EndpointFailed
too late                              tried again once, for it has taken long; then the same
any other status                      ItemRefused at once: it is about this request
"""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from common.engines.keys import bearer
from common.errors import ConfigError, EngineError
from common.lifecycle import backoff
from common.network import is_loopback
from rollout.server_errors import said

_RETRIED = (408, 409, 425, 429)  # 4xx that may pass
_OF_THE_ENDPOINT = (401, 403, 404)  # whatever is asked: another key, no such model
_LONGEST_PAUSE_S = 300.0  # longest pause that a server may ask for
_SHORT_S = 30.0  # time-out of questions about the server
_SHOWN = 300  # characters of an answer that makes no sense


@dataclass(frozen=True)
class Completion:
    """One completion."""

    text: str
    finish_reason: str  # "length": cut by max_tokens
    completion_tokens: int | None  # None means that the server does not say


class ItemRefused(EngineError):
    """A refusal of the server to answer this request."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.is_of_the_endpoint = status in _OF_THE_ENDPOINT
        self.is_of_the_key = status in (401, 403)


class EndpointFailed(EngineError):
    """A server that does not answer, as often as it is asked."""

    def __init__(self, message: str, pause_s: float | None = None, is_late: bool = False) -> None:
        super().__init__(message)
        self.pause_s = pause_s  # pause that the server asked for
        self.is_late = is_late  # the request timed out, which takes long


class ChatClient:
    """A client of one server.

    Args:
        url: has the version in its path: http://127.0.0.1:30000/v1.
        timeout_s: time-out of one request.
        tries: how often one question is tried.
        first_pause_s: pause after its first failure; later ones double, up to a minute.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 1800.0,
        tries: int = 8,
        first_pause_s: float = 1.0,
    ) -> None:
        self.url = url
        self._headers = bearer(key)
        self._timeout_s = timeout_s
        self._tries = tries
        self._first_pause_s = first_pause_s
        self._rng = random.Random()

    async def __aenter__(self) -> Self:
        host = urlsplit(self.url).hostname or ""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=self._headers,
            trust_env=not await asyncio.to_thread(is_loopback, host),  # proxies are for the way out
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def ask(self, body: Mapping[str, Any]) -> Completion:
        """The completion of one request.

        Raises:
            ItemRefused: the server will not answer this one.
            EndpointFailed: it does not answer.
        """
        pauses = backoff(self._first_pause_s, 60.0, self._rng)
        was_late = False
        for is_last in (*[False] * (self._tries - 1), True):
            try:
                content = await self._send("POST", "/chat/completions", body, self._timeout_s)
                return parse_answer(content)
            except EndpointFailed as error:
                if is_last or (was_late and error.is_late):
                    raise
                was_late = was_late or error.is_late
                pause_s = next(pauses)
                await asyncio.sleep(pause_s if error.pause_s is None else error.pause_s)
        raise AssertionError("unreachable")

    async def models(self) -> dict[str, int | None]:
        """Names of the models that are served, with the tokens of their context where it is said.

        Raises:
            ItemRefused: the server does not say.
            EndpointFailed: it does not answer, or makes no sense.
        """
        content = await self._send("GET", "/models", None, min(_SHORT_S, self._timeout_s))
        try:
            return {str(one["id"]): _whole(one.get("max_model_len")) for one in content["data"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise EndpointFailed(f"{self.url}/models answered {_shown(content)}") from error

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> Any:
        url = self.url + path
        try:
            async with self._session.request(
                method,
                url,
                json=body,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,  # the key and the picture are meant for this server
            ) as response:
                content = await response.read()
                status, pause_s = response.status, retry_after_s(response.headers, _now())
        except TimeoutError as error:
            message = f"{url}: no answer within {timeout_s:g} s"
            raise EndpointFailed(message, is_late=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise EndpointFailed(f"{url}: {error or type(error).__name__}") from error
        if status != 200:
            raise _failure(f"{url}: HTTP {status}: {_message(content)}", status, pause_s)
        try:
            return json.loads(content)
        except ValueError as error:
            raise EndpointFailed(f"{url}: no JSON: {_shown(content)}") from error


def base_url(text: str, option: str = "--endpoint") -> str:
    """A server's URL as people write it, with the path that OpenAI's API has where none is given.

    Args:
        option: the option that it was given with.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username:
        raise ConfigError(
            f"{option} {text}: not the URL of a server. Fix: as in http://127.0.0.1:30000/v1"
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def chat_body(
    model: str,
    text: str,
    data_url: str | None,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    thinking: bool | None = None,
    is_ours: bool = False,
) -> dict[str, Any]:
    """The JSON of POST /chat/completions: the picture first, then the text, nothing else.

    Args:
        data_url: the picture's; None means that there is none.
        thinking: what the chat template is told about it; None means nothing.
        is_ours: the server is one that we have started, with `thinking` as its default.
    """
    picture = [] if data_url is None else [{"type": "image_url", "image_url": {"url": data_url}}]
    content = [*picture, {"type": "text", "text": text}]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": temperature,
        "max_tokens": max_tokens,
    }
    if is_ours:
        # SGLang 0.5.23 takes it from the checkpoint's generation_config.json, also when greedy.
        body["repetition_penalty"] = 1.0
    elif thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    return body


def parse_answer(content: Any) -> Completion:
    """What a server's JSON says.

    Raises:
        EndpointFailed: no completion is in it.
    """
    try:
        choice = content["choices"][0]
        text = choice["message"].get("content") or ""  # null: cut while it was thinking
        if not isinstance(text, str):
            raise TypeError("content is no text")
        usage = content.get("usage") or {}
        tokens = _whole(usage.get("completion_tokens"))
        return Completion(text, str(choice.get("finish_reason")), tokens)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EndpointFailed(f"no completion in the answer: {_shown(content)}") from error


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3), bounded; None if it does not say."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdecimal():
        return min(float(said), _LONGEST_PAUSE_S)
    try:
        seconds = (parsedate_to_datetime(said).astimezone(UTC) - now).total_seconds()
    except ValueError:
        return None
    return min(max(0.0, seconds), _LONGEST_PAUSE_S)


def _failure(message: str, status: int, pause_s: float | None) -> EngineError:
    if status in _RETRIED or status >= 500:
        return EndpointFailed(message, pause_s)
    return ItemRefused(message, status)


def _now() -> datetime:
    return datetime.now(UTC)


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _shown(content: Any) -> str:
    return repr(content)[:_SHOWN]


def _message(content: bytes) -> str:
    return said(content, ("error", "message", "detail"), _SHOWN)
