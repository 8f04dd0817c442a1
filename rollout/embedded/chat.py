"""OpenAI's endpoints (/v1/chat/completions, /v1/models) over the scheduler, as SGLang 0.5.23's.

Known differences, and why they stay:
- What SGLang ignores is refused: unknown fields, pictures that the template does not show.
- Tools, guided decoding and penalties are not there; top_logprobs is 20 at most, as OpenAI's, and
  needs logprobs.
- Errors are {"error": {"message", "type", "code"}} as OpenAI's; SGLang leaves out the outer object.
- A conversation that ends in the assistant's words is refused; SGLang takes them for the user's.
- Log-probs of tokens without text (the end token) come with a stream's last chunk; SGLang drops
  them.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from rollout.embedded.bodies import error_body, read_json
from rollout.embedded.chat_replies import PartWriter, ReplyHead, Writer, usage
from rollout.embedded.chat_requests import Chat, parse_chat, template_messages
from rollout.embedded.chat_template import ChatTemplate
from rollout.embedded.job import Job
from rollout.embedded.prompts import PromptBuilder
from rollout.embedded.requests import GenerateBody, VocabularyFacts
from rollout.embedded.running import finished, steps
from rollout.embedded.sampler import new_sequences
from rollout.embedded.scheduler import Scheduler
from rollout.embedded.stop_strings import StopStrings

Json = dict[str, Any]
_DONE = b"data: [DONE]\n\n"


class ChatServer:
    """The endpoints for chat with one model.

    Args:
        model_name: shown by /v1/models.
        defaults: sampling parameters for what requests leave out.
    """

    def __init__(
        self,
        *,
        model_name: str,
        scheduler: Scheduler,
        prompts: PromptBuilder,
        template: ChatTemplate,
        vocabulary: VocabularyFacts,
        defaults: Mapping[str, float],
    ) -> None:
        self._model_name = model_name
        self._scheduler = scheduler
        self._prompts = prompts
        self._template = template
        self._vocabulary = vocabulary
        self._defaults = defaults
        self._started = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self.complete),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
        ]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        tokenizer = self._prompts.tokenizer
        chat = parse_chat(await read_json(request), self._vocabulary, self._defaults)
        job = await asyncio.to_thread(self._job, chat)
        head, writer = ReplyHead.now(job.rid, chat.request.model), Writer(chat.request, tokenizer)
        if chat.request.stream:
            return await self._stream(request, self._events(job, head, writer))
        await finished(self._scheduler, job)
        choices = [writer.choice(number, each) for number, each in enumerate(job.sequences)]
        return web.json_response(head.whole(choices, _usage(job), self._metadata(job)))

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card()]})

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name == self._model_name:
            return web.json_response(self._card())
        error = error_body(404, f"The model {name!r} does not exist")
        known = {"param": "model", "code": "model_not_found"}
        return web.json_response({"error": {**error, **known}}, status=404)

    def _card(self) -> Json:
        return {
            "id": self._model_name,
            "object": "model",
            "created": self._started,
            "owned_by": "embedded",
            "root": self._model_name,
            "parent": None,
            "max_model_len": self._prompts.context_tokens,
        }

    def _job(self, chat: Chat) -> Job:
        """Make a job of a chat: render its messages, decode its pictures. Raises BadRequest."""
        asked = chat.request
        text = self._template.text(template_messages(asked), asked.thinking)
        body = GenerateBody(
            input_ids=None,
            text=text,
            images=chat.images,
            law=chat.law,
            n=asked.n,
            seed=asked.seed,
            skip_special_tokens=asked.skip_special_tokens,
            return_logprob=asked.logprobs,
            rid=asked.rid,
        )
        prompt = self._prompts.build(body)
        limit = asked.token_limit or self._prompts.context_tokens - len(prompt)
        law = replace(chat.law, max_new_tokens=limit)
        job = Job(asked.rid or uuid.uuid4().hex, new_sequences(prompt, law, asked.n, asked.seed))
        if asked.stops:
            words = (self._prompts.tokenizer, asked.skip_special_tokens)
            job.after_step.append(StopStrings(asked.stops, job.sequences, *words))
        return job

    def _metadata(self, job: Job) -> Json:
        """The weights behind the first response."""
        spans = job.sequences[0].version_spans
        version = spans[-1]["version"] if spans else self._scheduler.version
        return {"weight_version": version, "weight_versions": spans}

    # ---- server-sent events ----------------------------------------------------------------------
    async def _stream(
        self, request: web.Request, events: AsyncGenerator[Json, None]
    ) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        reply = web.StreamResponse(headers=headers)
        async with contextlib.aclosing(events):
            async for event in events:
                if not reply.prepared:  # what fails before the first token is an HTTP error
                    await reply.prepare(request)
                await reply.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await reply.write(_DONE)
        return reply

    async def _events(
        self, job: Job, head: ReplyHead, writer: Writer
    ) -> AsyncGenerator[Json, None]:
        parts = [PartWriter(writer, number, each) for number, each in enumerate(job.sequences)]
        has_begun = False
        try:
            async with contextlib.aclosing(steps(self._scheduler, job)) as every_step:
                async for _ in every_step:
                    for choice in [choice for part in parts for choice in part.news()]:
                        has_begun = True
                        yield head.chunk([choice])
        except Exception as error:  # the boundary of a request: its status line has been sent
            if not has_begun:
                raise
            yield {"error": error_body(500, f"{type(error).__name__}: {error}")}
            return
        if writer.request.stream_options.include_usage:
            yield head.chunk([], _usage(job))


def _usage(job: Job) -> Json:
    return usage(job.sequences[0].prompt, job.sequences)
