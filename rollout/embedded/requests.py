"""The body of POST /generate, checked field by field; what would be ignored silently is refused."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rollout.embedded.sampler import RequestLaw

MAX_RESPONSES = 1024  # limit of one request, and of rollout.trajectories_per_sample
_MOST = 2**31 - 1
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
Batch = Annotated[list[T], Field(min_length=1, max_length=1)]  # a batch of one, as SGLang takes it


class BadRequest(ValueError):
    """The request is at fault: HTTP 400 with this message."""


class SamplingParams(BaseModel):
    """What /generate takes as sampling_params."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    n: int = Field(1, ge=1, le=MAX_RESPONSES)
    temperature: float = Field(1.0, ge=0, le=1e30)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: Annotated[int, Field(ge=1, le=_MOST)] | Literal[-1] = -1
    min_p: float = Field(0.0, ge=0, le=1)
    max_new_tokens: int = Field(128, ge=0, le=_MOST)
    stop_token_ids: list[int] = []
    logit_bias: dict[str, Annotated[float, Field(ge=-1e30, le=1e30)]] = {}
    sampling_seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    ignore_eos: bool = False
    skip_special_tokens: bool = True


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str | None = None
    input_ids: list[int] | Batch[list[int]] | None = None
    image_data: str | list[str] | Batch[list[str]] = []
    sampling_params: dict[str, Any] = {}
    return_logprob: bool = False
    logprob_start_len: int = Field(-1, ge=-1)
    rid: str | None = None
    extra_key: str | None = None  # divides SGLang's prefix cache; there is none here
    weight_version: str | None = None
    log_metrics: Any = None  # log_metrics and the next change nothing here
    return_text_in_logprobs: Any = None


@dataclass(frozen=True)
class GenerateBody:
    """A request to /generate, as parsed."""

    input_ids: tuple[int, ...] | None
    text: str | None
    images: tuple[bytes, ...]  # encoded files
    law: RequestLaw
    n: int
    seed: int | None
    skip_special_tokens: bool
    return_logprob: bool
    rid: str | None
    score_from: int | None = None  # log-probs of the expanded prompt from this position on
    is_batch: bool = False  # a batch of one prompt: the answer is then a list
    weight_version: str | None = None  # names pinned weights; None means those that are served


@dataclass(frozen=True)
class VocabularyFacts:
    """What requests are checked against."""

    size: int
    end_token_ids: frozenset[int]


def parse_generate(body: Mapping[str, Any], vocabulary: VocabularyFacts) -> GenerateBody:
    """Check the body of /generate; BadRequest names the field and the reason."""
    asked = validated(_Body, body)
    if (asked.text is None) == (asked.input_ids is None):
        raise BadRequest("Either text or input_ids should be provided, not both or none.")
    params = validated(SamplingParams, asked.sampling_params)
    start = asked.logprob_start_len
    return GenerateBody(
        input_ids=None if asked.input_ids is None else _token_ids(asked.input_ids, vocabulary.size),
        text=asked.text,
        images=tuple(map(image_bytes, _flat(asked.image_data))),
        law=sampling_law(params, vocabulary),
        n=params.n,
        seed=params.sampling_seed,
        skip_special_tokens=params.skip_special_tokens,
        return_logprob=asked.return_logprob,
        rid=asked.rid,
        score_from=start if asked.return_logprob and start >= 0 else None,
        is_batch=_is_nested(asked.input_ids),
        weight_version=asked.weight_version,
    )


def validated(form: type[Model], body: Mapping[str, Any]) -> Model:
    """The fields of a body. One that is null was left out; an unknown one that is false is passed.

    Raises:
        BadRequest: with the field and the reason.
    """
    known = form.model_fields
    given = {k: value for k, value in body.items() if value is not None and (value or k in known)}
    try:
        return form.model_validate(given)
    except ValidationError as error:
        raise BadRequest(_first_problem(error)) from None


def sampling_law(
    params: SamplingParams, vocabulary: VocabularyFacts, top_logprobs: int = 0
) -> RequestLaw:
    """The law that sampling parameters ask for. Raises BadRequest: an unknown token."""
    ends = vocabulary.end_token_ids | set(params.stop_token_ids)
    return RequestLaw(
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        stop_token_ids=frozenset() if params.ignore_eos else ends,
        logit_bias=_logit_bias(params.logit_bias, vocabulary.size),
        top_logprobs=top_logprobs,
    )


def _first_problem(error: ValidationError) -> str:
    # Of what a field may be, that which the request came closest to says most.
    problem = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
    names = [str(part) for part in problem["loc"] if str(part).isidentifier() or part != str(part)]
    field = ".".join(names)
    if problem["type"] == "extra_forbidden":
        return f"{field} is not supported by the embedded engine"
    return f"{field}: {problem['msg']}, got {problem['input']!r:.100}"


def _logit_bias(bias: Mapping[str, float], size: int) -> tuple[tuple[int, float], ...]:
    for key in bias:
        if not key.isdigit() or int(key) >= size:
            raise BadRequest(f"logit_bias must have keys in [0, {size - 1}], got {key!r}.")
    return tuple((int(key), value) for key, value in bias.items())


def _token_ids(value: Any, size: int) -> tuple[int, ...]:
    ids = _flat(value)
    if not ids or min(ids) < 0 or max(ids) >= size:
        raise BadRequest(f"input_ids must be one list of integers in [0, {size - 1}]")
    return tuple(ids)


def _is_nested(value: Any) -> bool:
    """Whether it is a batch of one."""
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], list)


def _flat(value: Any) -> list[Any]:
    """The items of a list, of a batch of one, or one item alone."""
    if _is_nested(value):
        return list(value[0])
    return value if isinstance(value, list) else [value]


def image_bytes(image: str, field: str = "image_data") -> bytes:
    """The file in a data URL. Paths and other URLs are refused: no file is read for clients.

    Args:
        field: name of the field, for errors.

    Raises:
        BadRequest: it is no data URL, or not in base64.
    """
    head, _, encoded = image.partition(",")
    if not head.startswith("data:"):
        raise BadRequest(
            f"{field} takes data URLs alone: no paths, other URLs or bare base64. "
            "Fix: data:image/png;base64,..."
        )
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise BadRequest(f"{field} is not base64: {error}") from error
