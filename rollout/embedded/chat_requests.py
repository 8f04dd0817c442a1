"""The body of POST /v1/chat/completions, as OpenAI has it; what is not supported is refused.

Fields of SGLang's own are taken as far as /generate knows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rollout.embedded.requests import (
    MAX_RESPONSES,
    BadRequest,
    SamplingParams,
    VocabularyFacts,
    image_bytes,
    sampling_law,
    validated,
)
from rollout.embedded.sampler import RequestLaw

MAX_TOP_LOGPROBS = 20  # OpenAI's limit
_LAW_FIELDS = {"temperature", "top_p", "top_k", "min_p", "stop_token_ids", "logit_bias",
               "ignore_eos"}  # fmt: skip


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Object):
    type: Literal["text"]
    text: str


class ImageUrl(_Object):
    url: str
    detail: str = "auto"  # not heeded, as in SGLang: the checkpoint's limits hold


class ImagePart(_Object):
    type: Literal["image_url"]
    image_url: ImageUrl


class Message(_Object):
    role: Literal["system", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class StreamOptions(_Object):
    include_usage: bool = False


class TemplateOptions(_Object):
    enable_thinking: bool | None = None  # None means what the server was started with


class PlainText(_Object):
    type: Literal["text"]


class ChatRequest(_Object):
    """What is taken. A field that is null is one that was left out."""

    messages: list[Message] = Field(min_length=1)
    model: str = "default"  # echoed: there is one model, as in SGLang
    n: int = Field(1, ge=1, le=MAX_RESPONSES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)  # this one wins over max_tokens
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)
    stop: str | list[str] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None  # changes nothing
    # Taken with the value alone that changes nothing.
    frequency_penalty: float = Field(0.0, ge=0, le=0)
    presence_penalty: float = Field(0.0, ge=0, le=0)
    repetition_penalty: float | None = Field(None, ge=1, le=1)
    response_format: PlainText | None = None
    # SGLang's own.
    chat_template_kwargs: TemplateOptions = TemplateOptions()
    top_k: int | None = None
    min_p: float | None = None
    stop_token_ids: list[int] | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    rid: str | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop
        return [stop for stop in found if stop]

    @property
    def thinking(self) -> bool | None:
        return self.chat_template_kwargs.enable_thinking

    @property
    def image_urls(self) -> list[str]:
        return [
            part.image_url.url
            for message in self.messages
            if not isinstance(message.content, str)
            for part in message.content
            if isinstance(part, ImagePart)
        ]


@dataclass(frozen=True)
class Chat:
    """A chat request, as parsed."""

    request: ChatRequest
    images: tuple[bytes, ...]  # encoded files, in the messages' order
    law: RequestLaw  # max_new_tokens is 0 when the request has no limit


def parse_chat(
    body: Mapping[str, Any], vocabulary: VocabularyFacts, defaults: Mapping[str, float]
) -> Chat:
    """Check the body of a chat completion.

    Args:
        defaults: the checkpoint's generation config, for what the request leaves out.

    Raises:
        BadRequest: with the field and the reason.
    """
    request = validated(ChatRequest, body)
    if defaults.get("repetition_penalty", 1.0) != 1.0 and request.repetition_penalty is None:
        raise BadRequest(
            f"the checkpoint's generation_config.json has repetition_penalty = "
            f"{defaults['repetition_penalty']}, which the embedded engine does not support. "
            "Fix: send repetition_penalty = 1"
        )
    if request.messages[-1].role == "assistant":
        raise BadRequest("messages: the last one is the assistant's. Fix: end with the user's")
    if request.top_logprobs and not request.logprobs:
        raise BadRequest(f"top_logprobs = {request.top_logprobs} needs logprobs = true")
    images = [
        image_bytes(url, f"image_url of picture {number}")
        for number, url in enumerate(request.image_urls)
    ]
    return Chat(request, tuple(images), _law(request, vocabulary, defaults))


def sampling_defaults(generation_config: Any) -> dict[str, float]:
    """What a checkpoint's generation config says of sampling, as SGLang reads it.

    Args:
        generation_config: transformers' object, with None for what it does not name.
    """
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    found = {name: getattr(generation_config, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def template_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages as chat templates read them: a picture is {"type": "image"}."""
    return [
        {"role": message.role, "content": _template_content(message)}
        for message in request.messages
    ]


def _template_content(message: Message) -> str | list[dict[str, str]]:
    if isinstance(message.content, str):
        return message.content
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
        for part in message.content
    ]


def _law(
    request: ChatRequest, vocabulary: VocabularyFacts, defaults: Mapping[str, float]
) -> RequestLaw:
    asked = request.model_dump(include=_LAW_FIELDS, exclude_none=True)
    usual = {key: value for key, value in defaults.items() if key != "repetition_penalty"}
    params = validated(SamplingParams, usual | asked)
    params.max_new_tokens = request.token_limit or 0
    return sampling_law(params, vocabulary, request.top_logprobs)
