"""The client of any server with SGLang's HTTP endpoints: real SGLang or the embedded engine.

Token ids travel, never text to be tokenised again. Each request has a finite timeout; a failure
is an EngineError with what the server said. Errors name the endpoint.
"""

import base64
import json
import secrets
import zlib
from types import TracebackType
from typing import Any, Self

import aiohttp
import numpy as np

from common.engines.keys import bearer
from common.errors import EngineError
from common.group import Responses, Trajectory, VersionSpan
from common.types import FinishReason, WeightBucket
from rollout.engine import (
    EngineGone,
    EngineInfo,
    GroupRequest,
    GroupResult,
    Latencies,
    RequestFailed,
    RequestRejected,
    Scores,
)
from rollout.server_errors import said

_BAN = -1e9  # added to a logit; finite, so that log-probs of other tokens stay finite
_HEALTH_S = 30.0  # SGLang gives itself 20 for the token that it makes
_SHOWN_BYTES = 200  # how much is shown of an answer that makes no sense
_USELESS = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError)
# Another key, too many requests, a proxy without its server, a server without memory: what else is
# under way may be why, so the sample is a suspect and no more.
_NOT_OF_THE_REQUEST = (401, 403, 408, 429, 502, 503, 504)
_GRACE_S = 1.0  # lets the server's own timeout, which says more, come first


class HttpEngine:
    """A client of one server.

    The server's prefix cache is divided: a request meets only entries of requests that were sent
    since the same push (`extra_key`). So no response is computed from KV of older weights than
    those that were served when it was sent, whatever a flush may have left.

    Args:
        url: the server's, without a path.
        request_timeout_s: time-out of one generation.
        control_timeout_s: time-out of a phase of a weight update, and of short questions.
        load_timeout_s: time-out of reading all weights from files.
        api_key: the server's; None means that it asks for none.
    """

    def __init__(
        self,
        url: str,
        *,
        request_timeout_s: float,
        control_timeout_s: float,
        load_timeout_s: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._request_timeout_s = request_timeout_s
        self._control_timeout_s = control_timeout_s
        self._load_timeout_s = load_timeout_s
        self._headers = bearer(api_key)
        self._name = secrets.token_hex(4)  # a server may remember an earlier client of it
        self._pushes = 0
        self._pushed_version = 0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # After an error SGLang drops the connection, also under the request that comes next.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            headers=self._headers,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def generate(self, request: GroupRequest) -> GroupResult:
        # As it stands when the request leaves: no cache entry that it may meet is older.
        pinned = request.pinned_version
        cache_version = self._pushed_version if pinned is None else pinned
        body = generate_body(request, self._cache_part)
        answer = await self._generate(body, self._request_timeout_s)
        return parse_group(
            answer, request.num_trajectories, cache_version, request.max_response_tokens
        )

    async def score(
        self, prompt_token_ids: np.ndarray, image: bytes, response_token_ids: np.ndarray
    ) -> Scores:
        # Two probes' prompts begin alike: none is to meet what the other has left.
        part = f"{self._cache_part}-{zlib.crc32(image):08x}"
        body = score_body(prompt_token_ids, image, response_token_ids, part)
        # It waits its turn behind requests that a pause has put back.
        answer = await self._generate(body, self._request_timeout_s)
        return parse_scores(answer, response_token_ids)

    async def info(self) -> EngineInfo:
        return parse_info(await self._facts("/server_info"))

    async def version(self) -> int | None:
        reported = str((await self._facts("/model_info")).get("weight_version"))
        return int(reported) if reported.isdigit() else None

    async def is_healthy(self) -> bool:
        try:
            status, _ = await self._send("GET", "/health", None, _HEALTH_S)
        except EngineError:
            return False
        return status == 200

    async def checksums(self) -> dict[str, str]:
        answer = await self._ask("POST", "/weights_checker", {"action": "checksum"})
        try:
            found = answer["ranks"][0]["checksums"]
            return {str(name): str(value) for name, value in found.items()}
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineError(f"/weights_checker answered {str(answer)[:200]!r}") from error

    async def init_group(
        self, *, name: str, host: str, port: int, rank: int, world_size: int, backend: str
    ) -> None:
        body = {
            "master_address": host,
            "master_port": port,
            "rank_offset": rank,
            "world_size": world_size,
            "group_name": name,
            "backend": backend,
        }
        await self._ask("POST", "/init_weights_update_group", body)

    async def destroy_group(self, name: str) -> None:
        await self._ask("POST", "/destroy_weights_update_group", {"group_name": name})

    async def pause(self, mode: str) -> None:
        await self._ask("POST", "/pause_generation", {"mode": mode})

    async def begin_update(self) -> None:
        await self._ask("POST", "/begin_weight_update", {})

    async def update(
        self, bucket: WeightBucket, *, group: str, final_version: int | None, flush: bool
    ) -> None:
        body: dict[str, Any] = {
            "names": bucket.names,
            "dtypes": bucket.dtypes,
            "shapes": bucket.shapes,
            "group_name": group,
            "load_format": "flattened_bucket",
            "flush_cache": flush and final_version is not None,
        }
        if final_version is not None:
            body["weight_version"] = str(final_version)
        await self._ask("POST", "/update_weights_from_distributed", body)
        if final_version is not None:
            self._note_push(final_version)

    async def end_update(self) -> None:
        await self._ask("POST", "/end_weight_update", {})

    async def load_folder(self, folder: str, version: int, *, flush: bool) -> None:
        body = {"model_path": folder, "weight_version": str(version), "flush_cache": flush}
        await self._ask("POST", "/update_weights_from_disk", body, self._load_timeout_s)
        self._note_push(version)

    async def resume(self) -> None:
        await self._ask("POST", "/continue_generation", {})

    async def pin(self, version: int) -> bool:
        return await self._is_done("/pin_weights", {"weight_version": str(version)})

    async def unpin(self, version: int) -> None:
        await self._is_done("/unpin_weights", {"weight_version": str(version)})

    async def use_threads(self, threads: int) -> None:
        await self._is_done("/use_threads", {"threads": threads})

    async def _is_done(self, path: str, body: dict[str, Any]) -> bool:
        """Ask for what the embedded engine alone can do. Raises EngineGone."""
        status, _ = await self._send("POST", path, body, self._control_timeout_s + _GRACE_S)
        return status == 200

    @property
    def _cache_part(self) -> str:
        """Name of the part of the prefix cache that a request sent now may use."""
        return f"{self._name}-{self._pushes}"

    def _note_push(self, version: int) -> None:
        self._pushes += 1
        self._pushed_version = version

    async def _generate(self, body: dict[str, Any], timeout_s: float) -> Any:
        status, content = await self._send("POST", "/generate", body, timeout_s)
        if status == 400:
            raise RequestRejected(f"/generate: HTTP 400: {_message(content)}")
        if status in _NOT_OF_THE_REQUEST:
            raise EngineGone(f"/generate: HTTP {status}: {_message(content)}")
        if status != 200:
            raise RequestFailed(f"/generate: HTTP {status}: {_message(content)}")
        try:
            return json.loads(content)
        except ValueError as error:
            raise RequestFailed(
                f"/generate: the answer is not JSON: {content[:_SHOWN_BYTES]!r}"
            ) from error

    async def _facts(self, path: str) -> dict[str, Any]:
        found = await self._ask("GET", path)
        if not isinstance(found, dict):
            raise EngineError(f"{path} answered {str(found)[:200]!r}")
        return found

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        limit_s = (timeout_s or self._control_timeout_s) + _GRACE_S
        return self._checked(path, *await self._send(method, path, body, limit_s))

    def _checked(self, path: str, status: int, content: bytes) -> Any:
        if status != 200:
            raise EngineError(f"{path}: HTTP {status}: {_message(content)}")
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise EngineError(f"{path}: the answer is not JSON: {content[:200]!r}") from error

    async def _send(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float
    ) -> tuple[int, bytes]:
        if self._session.closed:  # its server has given the engine up; another one still asks
            raise EngineGone(f"{path}: {self._url} is given up")
        try:
            async with self._session.request(
                method, self._url + path, json=body, timeout=aiohttp.ClientTimeout(total=timeout_s)
            ) as response:
                return response.status, await response.read()
        except TimeoutError as error:
            raise EngineGone(f"{path}: no answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineGone(f"{path}: {self._url}: {error or type(error).__name__}") from error


def generate_body(request: GroupRequest, cache_part: str) -> dict[str, Any]:
    """The JSON of POST /generate.

    Args:
        cache_part: the request shares prefixes with requests of the same part alone.
    """
    params: dict[str, Any] = {
        "n": request.num_trajectories,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "max_new_tokens": request.max_response_tokens,
    }
    if request.end_token_ids:
        params["stop_token_ids"] = list(request.end_token_ids)
    if request.banned_token_ids:
        params["logit_bias"] = {str(token): _BAN for token in request.banned_token_ids}
    if request.seed is not None:
        params["sampling_seed"] = request.seed
    images = [_data_url(content) for content in request.images]
    pinned = (
        {} if request.pinned_version is None else {"weight_version": f"{request.pinned_version}"}
    )
    return {
        **pinned,
        "input_ids": request.prompt_token_ids.tolist(),
        # With n > 1 the server turns the request into a batch of one: several images are one item.
        "image_data": [images] if request.num_trajectories > 1 and len(images) > 1 else images,
        "sampling_params": params,
        "return_logprob": True,
        "extra_key": cache_part,
    }


def score_body(
    prompt_token_ids: np.ndarray, image: bytes, response_token_ids: np.ndarray, cache_part: str
) -> dict[str, Any]:
    """The JSON of a POST /generate that scores a given response; the one new token is of no use.

    Scores start with the last token of the response's own prompt, so that the prefix cache may be
    used for what is before it: a stale entry would show.
    """
    tokens = [*prompt_token_ids.tolist(), *response_token_ids.tolist()]
    return {
        "input_ids": tokens,
        "image_data": [_data_url(image)],
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": len(prompt_token_ids) - 1,  # a lower bound: placeholders expand
        "extra_key": cache_part,
    }


def _data_url(png: bytes) -> str:
    """A data URL. Bare base64 may begin with "/", as a JPEG's does: SGLang would open a file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def parse_scores(answer: Any, response_token_ids: np.ndarray) -> Scores:
    """Read the answer to a request for scores. Raises EngineError: it is another answer."""
    try:
        meta = answer["meta_info"]
        pairs = meta["input_token_logprobs"][-len(response_token_ids) :]
        if [pair[1] for pair in pairs] != response_token_ids.tolist():
            raise ValueError("it scored other tokens")
        logprobs = np.asarray([pair[0] for pair in pairs], dtype=np.float32)
        return Scores(logprobs, int(meta["cached_tokens"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineError(
            f"/generate: unexpected answer: {type(error).__name__}: {error}"
        ) from error


def parse_info(info: dict[str, Any]) -> EngineInfo:
    """What matters of GET /server_info."""
    states = info.get("internal_states") or [{}]
    running = states[0].get(
        "effective_max_running_requests_per_dp", info.get("max_running_requests")
    )
    return EngineInfo(
        device="cpu" if info.get("device", "cpu") == "cpu" else "cuda",
        ranks=int(info.get("tp_size") or 1),
        max_running=int(running) if running else None,
        version=str(info["version"]) if info.get("version") else None,
    )


def parse_group(
    answer: Any, num_trajectories: int, cache_version: int, max_response_tokens: int
) -> GroupResult:
    """The result of one group.

    Args:
        cache_version: oldest weights behind any cache entry that the engine may have used.

    Raises:
        RequestFailed: the answer is not what was asked for.
    """
    results = answer if isinstance(answer, list) else [answer]
    if len(results) != num_trajectories:
        raise RequestFailed(f"/generate: {len(results)} responses, asked for {num_trajectories}")
    try:
        kept = tuple(
            _trajectory(index, result, cache_version)
            for index, result in enumerate(results)
            if result["meta_info"]["finish_reason"]["type"] != "abort"
        )
        num_prompt_tokens = int(results[0]["meta_info"]["prompt_tokens"])
        longest = max((trajectory.num_tokens for trajectory in kept), default=0)
        if longest > max_response_tokens:
            raise ValueError(f"{longest} tokens, asked for {max_response_tokens} at most")
        if not 0 < num_prompt_tokens < 2**31:
            raise ValueError(f"prompt_tokens = {num_prompt_tokens}")
        responses = Responses.of(kept) if kept else None
    except _USELESS as error:
        raise RequestFailed(f"/generate: useless answer: {_told(error)}") from error
    return GroupResult(
        num_prompt_tokens, responses, len(results) - len(kept), latencies_of(results)
    )


def latencies_of(results: list[dict[str, Any]]) -> Latencies:
    """What the engine tells of its times: SGLang with --enable-metrics and the embedded one, all.

    SGLang alone tells only when each response was whole. Anything else in these fields is no fault
    of the answer.
    """

    def seconds(name: str) -> list[float]:
        found = [result["meta_info"].get(name) for result in results]
        is_known = all(type(value) in (int, float) and 0 <= value < 1e6 for value in found)
        return [float(value) for value in found] if is_known else []

    queued, first, whole = map(seconds, ("queue_time", "first_token_latency", "e2e_latency"))
    return Latencies(min(queued, default=None), min(first, default=None), tuple(whole))


def _trajectory(index: int, result: dict[str, Any], cache_version: int) -> Trajectory:
    meta = result["meta_info"]
    tokens = np.asarray(result["output_ids"], dtype=np.int32)
    pairs = meta["output_token_logprobs"]
    if [pair[1] for pair in pairs] != tokens.tolist():
        raise ValueError("output_ids and output_token_logprobs disagree")
    spans = meta.get("weight_versions") or [
        {"version": meta["weight_version"], "start": 0, "end": len(tokens)}
    ]
    return Trajectory(
        index=index,
        response_token_ids=tokens,
        rollout_logprobs=np.asarray([pair[0] for pair in pairs], dtype=np.float32),
        version_spans=tuple(
            VersionSpan(int(s["version"]), int(s["start"]), int(s["end"])) for s in spans
        ),
        cache_version=cache_version,
        finish_reason=FinishReason(meta["finish_reason"]["type"]),
    )


def _told(error: Exception) -> str:
    """An error in one line."""
    said = " ".join(str(error).split())
    return said if type(error) is ValueError else f"{type(error).__name__}: {said}"


def _message(content: bytes) -> str:
    return said(content, ("error", "message"), 500)
