"""What POST /v1/chat/completions answers, in SGLang's words; nothing is computed here."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.embedded.sampler import Prompt, Scored
from rollout.embedded.sampler import Sequence as Response
from rollout.embedded.token_texts import TokenTexts


@dataclass(frozen=True)
class ReplyHead:
    """What all parts of an answer begin with."""

    id: str
    model: str
    created: int  # seconds since 1970

    @classmethod
    def now(cls, id: str, model: str) -> "ReplyHead":
        return cls(id, model, int(time.time()))

    def whole(
        self, choices: list[dict[str, Any]], usage: dict[str, Any], metadata: dict[str, Any]
    ) -> Any:
        body = {"choices": choices, "usage": usage, "metadata": metadata}
        return {**self._object("chat.completion"), **body}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> Any:
        body = {**self._object("chat.completion.chunk"), "choices": choices}
        return body if usage is None else {**body, "usage": usage}

    def _object(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def choice(index: int, response: Response, text: str, logprobs: Any) -> dict[str, Any]:
    """A finished response."""
    message = {"role": "assistant", "content": text, "reasoning_content": None}
    return {"index": index, "message": message, "logprobs": logprobs, **_ending(response)}


def token_id_fields(response: Response) -> dict[str, list[int]]:
    """What return_token_ids adds to a choice: SGLang's names, placeholders expanded."""
    return {
        "prompt_token_ids": response.prompt.input_ids.tolist(),
        "response_token_ids": response.token_ids,
    }


def delta(index: int, text: str, logprobs: Any, *, role: str | None = None) -> dict[str, Any]:
    """More of a response."""
    said = {"reasoning_content": None, "content": text}
    change = said if role is None else {**said, "role": role}
    return _chunk_choice(index, change, logprobs, {"finish_reason": None, "matched_stop": None})


def last_delta(index: int, response: Response, logprobs: Any) -> dict[str, Any]:
    """The end of a response."""
    return _chunk_choice(index, {"reasoning_content": None}, logprobs, _ending(response))


def logprob_entries(
    tokens: Iterable[Scored], likeliest: Sequence[Sequence[Scored]], texts: TokenTexts
) -> dict[str, Any]:
    """OpenAI's log-probs.

    Args:
        likeliest: for each token; empty: nobody asked for them.
    """
    entries = [
        {
            **_named(token, texts),
            "top_logprobs": [_named(top, texts) for top in likeliest[i]] if likeliest else [],
        }
        for i, token in enumerate(tokens)
    ]
    return {"content": entries}


def usage(prompt: Prompt, responses: Iterable[Response]) -> dict[str, Any]:
    """Tokens: the prompt's once, whatever n."""
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


def _named(token: Scored, texts: TokenTexts) -> dict[str, Any]:
    return {
        "token": texts.text(token.token),
        "bytes": texts.bytes_of(token.token),
        "logprob": token.logprob,
    }


def _ending(response: Response) -> dict[str, Any]:
    reason = response.finish_reason or {}
    return {"finish_reason": reason.get("type"), "matched_stop": reason.get("matched")}


def _chunk_choice(
    index: int, change: dict[str, Any], logprobs: Any, ending: dict[str, Any]
) -> dict[str, Any]:
    return {"index": index, "delta": change, "logprobs": logprobs, **ending}
