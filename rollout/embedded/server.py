"""SGLang's HTTP endpoints (0.5.23) over the scheduler, as SGLang documents them.

Known differences, and why they stay:
- What SGLang ignores is refused (unknown fields, images without a placeholder and placeholders
  without an image, text beside input_ids): in a test it is a mistake.
- What ends SGLang or is its HTTP 500 is a 400: token ids outside the vocabulary, an empty text,
  logprob_start_len < -1, a pre-expanded prompt, an image that cannot be decoded.
- There is no prefix cache: cached_tokens is 0, and extra_key divides nothing.
- Scores of a prompt need max_new_tokens >= 1; ids at image positions are the placeholder's.
- /health and pauses answer at once; SGLang takes a second.
- A tensor of another shape leaves all weights as they were; in SGLang some have changed by then.
- A request may name pinned weights as its weight_version; /pin_weights, /unpin_weights and
  /use_threads are ours.
- The checksums do not list what SGLang derives from the weights (axis_map, gemma_weight).
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from common.http_gate import Gate
from rollout.embedded.bodies import error_reply, read_json
from rollout.embedded.chat import ChatServer
from rollout.embedded.job import BatchLimits, Job
from rollout.embedded.prompts import PromptBuilder
from rollout.embedded.requests import (
    BadRequest,
    GenerateBody,
    VocabularyFacts,
    parse_generate,
)
from rollout.embedded.running import finished
from rollout.embedded.sampler import RequestLaw, new_sequences
from rollout.embedded.scheduler import MAX_BATCHES, PAUSE_MODES, Scheduler
from rollout.embedded.update_session import UpdateSession
from rollout.embedded.weights import checksum_report

MAX_BODY_BYTES = 256 * 2**20
HEALTH_TIMEOUT_S = 20.0
MAX_THREADS = 1024
MAX_RUNNING_REQUESTS = MAX_BATCHES * BatchLimits().max_sequences
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EngineServer:
    """The HTTP face of one model."""

    def __init__(
        self,
        *,
        model_path: str,
        scheduler: Scheduler,
        prompts: PromptBuilder,
        updates: UpdateSession,
        chat: ChatServer | None,
        vocabulary: VocabularyFacts,
        facts: dict[str, Any],
    ) -> None:
        self._model_path = model_path
        self._scheduler = scheduler
        self._prompts = prompts
        self._updates = updates
        self._chat = chat  # None means that there is no chat over OpenAI's API
        self._vocabulary = vocabulary
        self._facts = facts  # shown by /server_info

    def application(self, gate: Gate, *, takes_commands: bool = True) -> web.Application:
        """The routes, behind `gate`: nothing is read or done for those whom it turns away.

        Args:
            takes_commands: else the key's holders may generate and chat, and nothing more.
        """
        middlewares = [_only_through(gate), _errors_as_json]
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=middlewares)
        commands: dict[str, Handler] = {
            "/pause_generation": self.pause_generation,
            "/continue_generation": self.continue_generation,
            "/abort_request": self.abort_request,
            "/flush_cache": self.flush_cache,
            "/init_weights_update_group": self._update(self._updates.init_group),
            "/destroy_weights_update_group": self._update(self._updates.destroy_group),
            "/begin_weight_update": self._update(self._updates.begin),
            "/update_weights_from_distributed": self._update(self._updates.receive),
            "/update_weights_from_disk": self._update(self._updates.load_folder),
            "/end_weight_update": self._update(self._updates.end),
            "/update_weight_version": self.update_weight_version,
            "/weights_checker": self.weights_checker,
            "/pin_weights": self.pin_weights,
            "/unpin_weights": self.unpin_weights,
            "/use_threads": self.use_threads,
        }
        if not takes_commands:
            commands = dict.fromkeys(commands, _refuse_command)
        get: dict[str, Handler] = {
            "/health": self.health,
            "/health_generate": self.health,
            "/ready": self.ready,
            "/model_info": self.model_info,
            "/server_info": self.server_info,
            **{path: commands[path] for path in ("/flush_cache", "/weights_checker")},
        }
        app.add_routes([] if self._chat is None else self._chat.routes())
        app.add_routes([web.post("/generate", self.generate)])
        app.add_routes([web.post(path, handler) for path, handler in commands.items()])
        app.add_routes([web.get(path, handler) for path, handler in get.items()])
        return app

    async def generate(self, request: web.Request) -> web.Response:
        started = time.monotonic()
        body = parse_generate(await read_json(request), self._vocabulary)
        prompt = await asyncio.to_thread(self._prompts.build, body)
        job = Job(
            body.rid or uuid.uuid4().hex,
            new_sequences(prompt, body.law, body.n, body.seed),
            body.score_from,
            body.weight_version,
        )
        if body.weight_version not in (None, *self._scheduler.pinned_versions):
            raise BadRequest(f"weight_version {body.weight_version!r} is not pinned")
        if body.law.max_new_tokens == 0:
            for sequence in job.sequences:
                sequence.finish_reason = {"type": "length", "length": 0}
        else:
            await finished(self._scheduler, job)
        results = [self._result(body, job, index, started) for index in range(body.n)]
        return web.json_response(results if body.n > 1 or body.is_batch else results[0])

    def _result(self, body: GenerateBody, job: Job, index: int, started: float) -> dict[str, Any]:
        sequence = job.sequences[index]
        versions, now = sequence.versions, time.monotonic()
        meta: dict[str, Any] = {
            "id": job.rid if body.n == 1 else f"{job.rid}_{index}",
            "finish_reason": sequence.finish_reason,
            "prompt_tokens": len(sequence.prompt),
            "completion_tokens": len(sequence.token_ids),
            "cached_tokens": 0,
            "weight_version": versions[-1] if versions else self._scheduler.version,
            "weight_versions": sequence.version_spans,
            "num_retractions": sequence.num_retractions,
            "e2e_latency": job.ended.get(index, now) - started,
            "queue_time": (job.began or now) - started,
            "first_token_latency": (job.first_token or now) - started,
        }
        if body.return_logprob:
            meta["input_token_logprobs"] = _scores(job)
            meta["output_token_logprobs"] = [
                [logprob, token, None]
                for logprob, token in zip(sequence.logprobs, sequence.token_ids, strict=True)
            ]
        text = self._prompts.text(sequence.token_ids, body.skip_special_tokens)
        return {"text": text, "output_ids": sequence.token_ids, "meta_info": meta}

    async def health(self, request: web.Request) -> web.Response:
        """Compute one token; while paused this waits, as SGLang's does."""
        tokens_before = self._scheduler.tokens_generated
        vocabulary = VocabularyFacts(self._vocabulary.size, frozenset())
        probe = {"input_ids": [0], "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
        body = parse_generate(probe, vocabulary)
        job = Job(
            f"health-{uuid.uuid4().hex}",
            new_sequences(self._prompts.build(body), RequestLaw(1, temperature=0), 1, 0),
        )
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await finished(self._scheduler, job)
        except TimeoutError:
            if self._scheduler.tokens_generated == tokens_before:
                return web.Response(status=503)
        return web.Response(status=200)

    async def ready(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self._scheduler.is_paused else 200)

    async def model_info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "model_path": self._model_path,
                "tokenizer_path": self._model_path,
                "is_generation": True,
                "weight_version": self._scheduler.version,
                "has_image_understanding": True,
                "model_type": self._facts["model_type"],
            }
        )

    async def server_info(self, request: web.Request) -> web.Response:
        facts = {"device": "cpu", "tp_size": 1, "max_running_requests": MAX_RUNNING_REQUESTS}
        states = [{"num_requests": self._scheduler.num_jobs, "paused": self._scheduler.is_paused}]
        return web.json_response({**self._facts, **facts, "internal_states": states})

    async def pause_generation(self, request: web.Request) -> web.Response:
        mode = (await read_json(request)).get("mode", "abort")
        if mode not in PAUSE_MODES:
            raise BadRequest(f"mode must be one of {', '.join(PAUSE_MODES)}, got {mode!r}")
        await asyncio.wrap_future(self._scheduler.pause(mode))
        return web.json_response({"message": "Generation paused successfully.", "status": "ok"})

    async def continue_generation(self, request: web.Request) -> web.Response:
        await asyncio.wrap_future(self._scheduler.resume())
        return web.json_response({"message": "Generation continued successfully.", "status": "ok"})

    async def abort_request(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        rid, everything = body.get("rid"), bool(body.get("abort_all"))
        if everything or rid:  # neither: nothing is meant, as in SGLang
            self._scheduler.abort(lambda job: everything or job.rid == rid)
        return web.Response(status=200)

    async def flush_cache(self, request: web.Request) -> web.Response:
        if await asyncio.wrap_future(self._scheduler.run(lambda: self._scheduler.can_flush)):
            return web.Response(text="Cache flushed.\n")
        return web.Response(status=400, text="Flush cache failed.\n")

    async def update_weight_version(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        version = body.get("new_version")
        if not isinstance(version, str):
            raise BadRequest("new_version should be a string")
        if body.get("abort_all_requests", True):
            await asyncio.wrap_future(self._scheduler.abort(lambda job: True))
        await self._updates.set_version(version)
        message = f"Weight version updated to {version}"
        return web.json_response({"success": True, "message": message, "new_version": version})

    async def pin_weights(self, request: web.Request) -> web.Response:
        """Keep a copy of the weights, for requests with its weight_version. SGLang has no such."""
        version = str((await read_json(request)).get("weight_version"))
        if await asyncio.wrap_future(self._scheduler.pin(version)):
            return _outcome(True, f"Pinned version {version}")
        return _outcome(False, f"version {version} is not what is served")

    async def unpin_weights(self, request: web.Request) -> web.Response:
        """Forget a copy. SGLang has no such."""
        version = str((await read_json(request)).get("weight_version"))
        await asyncio.wrap_future(self._scheduler.unpin(version))
        return _outcome(True, f"Unpinned version {version}")

    async def use_threads(self, request: web.Request) -> web.Response:
        """Compute on so many CPU threads from now on. SGLang has no such."""
        threads = (await read_json(request)).get("threads")
        if type(threads) is not int or not 0 < threads <= MAX_THREADS:
            raise BadRequest(f"threads must be an integer from 1 to {MAX_THREADS}, got {threads!r}")
        await asyncio.wrap_future(self._scheduler.use_threads(threads))
        return _outcome(True, f"Computing on {threads} threads")

    async def weights_checker(self, request: web.Request) -> web.Response:
        action = (await read_json(request)).get("action", "checksum")
        if action != "checksum":
            return _outcome(False, f"Unsupported action={action!r}")
        checksums = await self._updates.checksums()
        return web.json_response(
            {"success": True, "message": "Success.", **checksum_report(checksums)}
        )

    def _update(self, step: Callable[[dict[str, Any]], Awaitable[tuple[bool, str]]]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            # Shielded: a client that gives up must not cut a step in half.
            return _outcome(
                *await asyncio.shield(asyncio.ensure_future(step(await read_json(request))))
            )

        return handle


async def _refuse_command(request: web.Request) -> web.Response:
    return error_reply(401, "this server takes no commands: it was started for chat alone")


def _scores(job: Job) -> list[tuple[float | None, int, None]]:
    """One entry a scored position; the first has no score, as nothing before it is looked at."""
    if job.score_from is None:
        return []
    token_ids = job.sequences[0].prompt.input_ids[job.score_from :].tolist()
    logprobs = [None, *job.prompt_logprobs][: len(token_ids)]
    return [(score, token, None) for score, token in zip(logprobs, token_ids, strict=True)]


def _outcome(success: bool, message: str) -> web.Response:
    body = {"success": success, "message": message}
    return web.json_response(body, status=200 if success else 400)


def _only_through(gate: Gate) -> Middleware:
    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (refusal := gate.refusal(request.headers.items())) is not None:
            return error_reply(*refusal)
        return await handler(request)

    return ask


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadRequest as error:
        status, message = 400, str(error)
    except web.HTTPException:
        raise
    except Exception as error:  # the boundary of a request: the server lives on
        status, message = 500, f"{type(error).__name__}: {error}"
    return error_reply(status, message)
