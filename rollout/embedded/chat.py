"""OpenAI's endpoints (/v1/chat/completions, /v1/models) over the scheduler, as SGLang 0.5.23's.

Known differences, and why they stay:
- What SGLang ignores is refused: unknown fields, pictures that the template does not show.
- Tools, guided decoding and penalties are not there; top_logprobs is 20 at most, as OpenAI's.
- A conversation that ends in the assistant's words is refused; SGLang takes them for the user's.
- Log-probs of tokens without text (the end token) come with a stream's last chunk; SGLang drops
  them.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from rollout.embedded.bodies import error_body, read_json
from rollout.embedded.chat_replies import (
    ReplyHead,
    choice,
    delta,
    last_delta,
    logprob_entries,
    token_id_fields,
    usage,
)
from rollout.embedded.chat_requests import Chat, parse_chat, template_messages
from rollout.embedded.chat_template import ChatTemplate
from rollout.embedded.prompts import PromptBuilder
from rollout.embedded.requests import BadRequest, GenerateBody, VocabularyFacts
from rollout.embedded.running import finished, steps
from rollout.embedded.sampler import Scored, new_sequences
from rollout.embedded.sampler import Sequence as Response
from rollout.embedded.scheduler import Job, Scheduler
from rollout.embedded.token_texts import GrowingText, TokenTexts

_DONE = b"data: [DONE]\n\n"


class ChatServer:
    """Chat with one model.

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
        self._texts = TokenTexts(prompts.tokenizer)
        self._started = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self.complete),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
        ]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        chat = parse_chat(await read_json(request), self._vocabulary, self._defaults)
        job = await asyncio.to_thread(self._job, chat)
        head = ReplyHead.now(job.rid, chat.request.model)
        if chat.request.stream:
            return await self._stream(request, chat, job, head)
        await finished(self._scheduler, job)
        choices = [self._choice(chat, number, each) for number, each in enumerate(job.sequences)]
        spent = usage(job.sequences[0].prompt, job.sequences)
        return web.json_response(head.whole(choices, spent, self._metadata(job)))

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card()]})

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name == self._model_name:
            return web.json_response(self._card())
        error = error_body(404, f"The model {name!r} does not exist")
        known = {"param": "model", "code": "model_not_found"}
        return web.json_response({"error": {**error, **known}}, status=404)

    def _card(self) -> dict[str, Any]:
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
        """Renders and decodes. Raises BadRequest."""
        asked = chat.request
        messages = template_messages(asked)
        if messages[-1]["role"] == "assistant":
            raise BadRequest("messages: the last one is the assistant's. Fix: end with the user's")
        text = self._template.text(messages, asked.chat_template_kwargs.enable_thinking)
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
        return Job(asked.rid or uuid.uuid4().hex, new_sequences(prompt, law, asked.n, asked.seed))

    def _choice(self, chat: Chat, number: int, response: Response) -> dict[str, Any]:
        text = self._prompts.text(response.token_ids, chat.request.skip_special_tokens)
        logprobs = self._logprobs(chat, response, 0, len(response.token_ids))
        found = choice(number, response, text, logprobs)
        return found | token_id_fields(response) if chat.request.return_token_ids else found

    def _logprobs(self, chat: Chat, response: Response, start: int, end: int) -> Any:
        """Of the tokens from `start` to before `end`; None: nobody asked for them."""
        if not chat.request.logprobs:
            return None
        pairs = zip(response.token_ids[start:end], response.logprobs[start:end], strict=True)
        tokens = [Scored(token, logprob) for token, logprob in pairs]
        return logprob_entries(tokens, response.likeliest[start:end], self._texts)

    def _metadata(self, job: Job) -> dict[str, Any]:
        """The weights behind the first response."""
        spans = job.sequences[0].version_spans
        version = spans[-1]["version"] if spans else self._scheduler.version
        return {"weight_version": version, "weight_versions": spans}

    # ---- server-sent events ----------------------------------------------------------------------
    async def _stream(
        self, request: web.Request, chat: Chat, job: Job, head: ReplyHead
    ) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        reply.headers["Cache-Control"] = "no-cache"
        async with contextlib.aclosing(self._events(chat, job, head)) as events:
            async for event in events:
                if not reply.prepared:  # what fails before the first token is an HTTP error
                    await reply.prepare(request)
                await reply.write(_event(event))
        await reply.write(_DONE)
        return reply

    async def _events(self, chat: Chat, job: Job, head: ReplyHead) -> AsyncIterator[Any]:
        streams = [
            _ResponseStream(self, chat, number, response)
            for number, response in enumerate(job.sequences)
        ]
        try:
            async with contextlib.aclosing(steps(self._scheduler, job)) as every_step:
                async for _ in every_step:
                    for stream in streams:
                        for part in stream.news():
                            yield head.chunk([part])
        except Exception as error:
            if not any(stream.has_begun for stream in streams):
                raise
            yield {"error": error_body(500, f"{type(error).__name__}: {error}")}
            return
        if chat.request.stream_options.include_usage:
            yield head.chunk([], usage(job.sequences[0].prompt, job.sequences))


class _ResponseStream:
    """One choice of a stream: what of it has been sent."""

    def __init__(self, server: ChatServer, chat: Chat, number: int, response: Response) -> None:
        self._server = server
        self._chat = chat
        self._number = number
        self._response = response
        self._text = GrowingText(server._prompts.tokenizer, chat.request.skip_special_tokens)
        self._sent = 0  # tokens whose log-probs have been sent
        self.has_begun = False
        self._has_ended = False

    def news(self) -> list[dict[str, Any]]:
        """The parts that have come since the last call."""
        response = self._response
        has_ended = response.finish_reason is not None  # asked first: no token comes after it
        token_ids = response.token_ids[: len(response.versions)]
        if self._has_ended or not (token_ids or has_ended):
            return []
        parts = []
        if not self.has_begun:
            self.has_begun = True
            parts.append(delta(self._number, "", None, role="assistant"))
        text = self._text.grown(token_ids)
        if has_ended:
            text += self._text.rest(token_ids)
        if text:
            parts.append(delta(self._number, text, self._logprobs(len(token_ids))))
        if has_ended:
            self._has_ended = True
            parts.append(last_delta(self._number, response, self._logprobs(len(token_ids))))
        return parts

    def _logprobs(self, end: int) -> Any:
        start, self._sent = self._sent, end
        if start == end:
            return None
        return self._server._logprobs(self._chat, self._response, start, end)


def _event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
