"""What POST /v1/chat/completions answers, in SGLang's words: whole, or in parts as they come."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rollout.embedded.chat_requests import ChatRequest
from rollout.embedded.sampler import Prompt, ScoredToken
from rollout.embedded.sampler import Sequence as Response
from rollout.embedded.stop_strings import answer_of, num_settled
from rollout.embedded.token_texts import GrowingText, TokenTexts

Json = dict[str, Any]


@dataclass(frozen=True)
class ReplyHead:
    """What an answer, and each part of one, begins with."""

    id: str
    model: str
    created: int  # seconds since 1970

    @classmethod
    def now(cls, id: str, model: str) -> "ReplyHead":
        return cls(id, model, int(time.time()))

    def whole(self, choices: list[Json], usage: Json, metadata: Json) -> Json:
        body = {"choices": choices, "usage": usage, "metadata": metadata}
        return {**self._object("chat.completion"), **body}

    def chunk(self, choices: list[Json], usage: Json | None = None) -> Json:
        body = {**self._object("chat.completion.chunk"), "choices": choices}
        return body if usage is None else {**body, "usage": usage}

    def _object(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class Writer:
    """A writer of responses, in the form that one request wants.

    Args:
        tokenizer: transformers'.
    """

    def __init__(self, request: ChatRequest, tokenizer: Any) -> None:
        self.request = request
        self.tokenizer = tokenizer
        self._texts = TokenTexts(tokenizer)

    def text(self, response: Response) -> str:
        """The text of a finished response, without the stop string that ended it."""
        skips = self.request.skip_special_tokens
        whole: str = self.tokenizer.decode(response.token_ids, skip_special_tokens=skips)
        return answer_of(whole, response)

    def choice(self, number: int, response: Response) -> Json:
        message = {"role": "assistant", "content": self.text(response), "reasoning_content": None}
        logprobs = self.logprobs(response, 0, len(response.token_ids))
        choice = {"index": number, "message": message, "logprobs": logprobs, **_ending(response)}
        return choice | (_token_ids(response) if self.request.return_token_ids else {})

    def logprobs(self, response: Response, start: int, end: int) -> Json | None:
        """Log-probs of tokens `start` to `end` - 1; None means none, or none asked for."""
        if not self.request.logprobs or start == end:
            return None
        tokens, values = response.token_ids[start:end], response.logprobs[start:end]
        others = response.likeliest[start:end] or [[] for _ in tokens]
        entries = [
            {
                **self._named(ScoredToken(token, value)),
                "top_logprobs": list(map(self._named, likeliest)),
            }
            for token, value, likeliest in zip(tokens, values, others, strict=True)
        ]
        return {"content": entries}

    def _named(self, scored: ScoredToken) -> Json:
        token = scored.token
        texts = {"token": self._texts.text(token), "bytes": self._texts.bytes_of(token)}
        return {**texts, "logprob": scored.logprob}


class PartWriter:
    """A writer of one response of a stream; it knows what has been sent."""

    def __init__(self, writer: Writer, number: int, response: Response) -> None:
        self._writer = writer
        self._number = number
        self._response = response
        self._grows = GrowingText(writer.tokenizer, writer.request.skip_special_tokens)
        self._text = ""
        self._sent_characters = 0
        self._sent_tokens = 0  # whose log-probs have been sent
        self._has_begun = self._has_ended = False

    def news(self) -> list[Json]:
        """The choices of chunks for what has come since the last call."""
        response = self._response
        has_ended = response.finish_reason is not None  # asked first: no token comes after it
        num_tokens = len(response.versions)  # the version is written last for each token
        if self._has_ended or not (num_tokens or has_ended):
            return []
        parts = [] if self._has_begun else [self._part({"role": "assistant", "content": ""})]
        self._has_begun = True
        if text := self._new_text(num_tokens, has_ended):
            parts.append(self._part({"content": text}, self._new_logprobs(num_tokens)))
        if has_ended:
            parts.append({**self._part({}, self._new_logprobs(num_tokens)), **_ending(response)})
        self._has_ended = has_ended
        return parts

    def _new_text(self, num_tokens: int, has_ended: bool) -> str:
        if has_ended:
            self._text = self._writer.text(self._response)
            settled = len(self._text)
        else:
            self._text += self._grows.grown(self._response.token_ids[:num_tokens])
            settled = num_settled(self._text, self._writer.request.stops)
        new = self._text[self._sent_characters : settled]
        self._sent_characters = max(self._sent_characters, settled)
        return new

    def _new_logprobs(self, num_tokens: int) -> Json | None:
        start, self._sent_tokens = self._sent_tokens, num_tokens
        return self._writer.logprobs(self._response, start, num_tokens)

    def _part(self, change: Json, logprobs: Json | None = None) -> Json:
        delta = {"reasoning_content": None, **change}
        open_end = {"finish_reason": None, "matched_stop": None}
        return {"index": self._number, "delta": delta, "logprobs": logprobs, **open_end}


def usage(prompt: Prompt, responses: Iterable[Response]) -> Json:
    """The numbers of tokens; the prompt counts once, whatever n."""
    completion = sum(len(response.token_ids) for response in responses)
    num_image_tokens = int(prompt.token_types.sum())
    details = {"cached_tokens": 0, "image_tokens": num_image_tokens} if num_image_tokens else None
    return {
        "prompt_tokens": len(prompt),
        "completion_tokens": completion,
        "total_tokens": len(prompt) + completion,
        "prompt_tokens_details": details,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def _token_ids(response: Response) -> Json:
    """Token ids of prompt, placeholders expanded, and response."""
    prompt_ids = response.prompt.input_ids.tolist()
    return {"prompt_token_ids": prompt_ids, "response_token_ids": response.token_ids}


def _ending(response: Response) -> Json:
    reason = response.finish_reason or {}
    return {"finish_reason": reason.get("type"), "matched_stop": reason.get("matched")}
