"""The body of POST /generate, checked field by field; what would be ignored silently is refused."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.embedded.sampler import SamplingLaw

MAX_RESPONSES = 1024  # of one request; rollout.trajectories_per_sample goes as far
# extra_key divides SGLang's prefix cache; there is none here.
_IGNORED = ("log_metrics", "stream", "return_text_in_logprobs")
_KNOWN = (
    "text", "input_ids", "image_data", "sampling_params", "return_logprob", "logprob_start_len",
    "rid", "extra_key", "weight_version",
)  # fmt: skip
_SAMPLING_KEYS = (
    "n", "temperature", "top_p", "top_k", "min_p", "max_new_tokens", "stop_token_ids",
    "logit_bias", "sampling_seed", "ignore_eos", "skip_special_tokens",
)  # fmt: skip


class BadRequest(ValueError):
    """The request is at fault: HTTP 400 with this message."""


@dataclass(frozen=True)
class GenerateBody:
    """One request, as parsed."""

    input_ids: tuple[int, ...] | None
    text: str | None
    images: tuple[bytes, ...]  # encoded files
    law: SamplingLaw
    n: int
    seed: int | None
    skip_special_tokens: bool
    return_logprob: bool
    rid: str | None
    score_from: int | None = None  # log-probs of the expanded prompt from this position on
    is_batch: bool = False  # of one prompt: the answer is then a list
    weight_version: str | None = None  # of pinned weights; None: those that are served


@dataclass(frozen=True)
class VocabularyFacts:
    """What requests are checked against."""

    size: int
    end_token_ids: frozenset[int]


def parse_generate(body: Mapping[str, Any], vocabulary: VocabularyFacts) -> GenerateBody:
    """Check the body of /generate; BadRequest names the field and the reason."""
    for key, value in body.items():
        if key not in _KNOWN + _IGNORED and value:
            raise BadRequest(f"{key} is not supported by the embedded engine")
    if body.get("stream"):
        raise BadRequest("stream is not supported by the embedded engine")
    text, input_ids = body.get("text"), body.get("input_ids")
    if (text is None) == (input_ids is None):
        raise BadRequest("Either text or input_ids should be provided, not both or none.")
    if text is not None and not isinstance(text, str):
        raise BadRequest("text should be a string")
    params = body.get("sampling_params") or {}
    _check_sampling_keys(params)
    _optional_string(body, "extra_key")
    return GenerateBody(
        input_ids=None if input_ids is None else _token_ids(input_ids, vocabulary.size),
        text=text,
        images=tuple(image_bytes(image) for image in _image_list(body.get("image_data"))),
        law=sampling_law(params, vocabulary),
        n=_integer(params, "n", 1, low=1, high=MAX_RESPONSES),
        seed=_seed(params.get("sampling_seed")),
        skip_special_tokens=bool(params.get("skip_special_tokens", True)),
        return_logprob=bool(body.get("return_logprob")),
        rid=_optional_string(body, "rid"),
        score_from=_score_from(body),
        is_batch=_is_nested(input_ids),
        weight_version=_optional_string(body, "weight_version"),
    )


def _check_sampling_keys(params: Any) -> None:
    if not isinstance(params, Mapping):
        raise BadRequest("sampling_params should be an object")
    unknown = [key for key in params if key not in _SAMPLING_KEYS]
    if unknown:
        raise BadRequest(f"sampling_params.{unknown[0]} is not supported by the embedded engine")


def sampling_law(params: Mapping[str, Any], vocabulary: VocabularyFacts) -> SamplingLaw:
    """The law that `sampling_params` asks for. Raises BadRequest with the parameter."""
    temperature = _number(params, "temperature", 1.0)
    top_p, min_p = _number(params, "top_p", 1.0), _number(params, "min_p", 0.0)
    top_k = _integer(params, "top_k", -1, low=-1)
    if temperature < 0:
        raise BadRequest(f"temperature must be a non-negative finite number, got {temperature}.")
    if not 0 < top_p <= 1:
        raise BadRequest(f"top_p must be in (0, 1], got {top_p}.")
    if not 0 <= min_p <= 1:
        raise BadRequest(f"min_p must be in [0, 1], got {min_p}.")
    if top_k == 0:
        raise BadRequest("top_k must be -1 (disable) or at least 1, got 0.")
    stops = _token_ids(params.get("stop_token_ids") or [], None)
    ends = frozenset() if params.get("ignore_eos") else vocabulary.end_token_ids | set(stops)
    return SamplingLaw(
        max_new_tokens=_integer(params, "max_new_tokens", 128, low=0),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        stop_token_ids=ends,
        logit_bias=_logit_bias(params.get("logit_bias") or {}, vocabulary.size),
    )


def _logit_bias(bias: Any, vocabulary_size: int) -> tuple[tuple[int, float], ...]:
    if not isinstance(bias, Mapping):
        raise BadRequest("logit_bias should map token ids to numbers")
    pairs = []
    for key, value in bias.items():
        if not str(key).isdigit() or int(key) >= vocabulary_size:
            raise BadRequest(
                f"logit_bias must has keys in [0, {vocabulary_size - 1}], got {key!r}."
            )
        pairs.append((int(key), _number({"logit_bias": value}, "logit_bias", 0.0)))
    return tuple(pairs)


def _token_ids(value: Any, vocabulary_size: int | None) -> tuple[int, ...]:
    if _is_nested(value):
        value = value[0]
    if not isinstance(value, list) or any(type(token) is not int for token in value):
        raise BadRequest("token ids should be one list of integers")
    if vocabulary_size is not None:
        if not value:
            raise BadRequest("input_ids is empty")
        if min(value) < 0 or max(value) >= vocabulary_size:
            raise BadRequest(f"input_ids must lie in [0, {vocabulary_size - 1}]")
    return tuple(value)


def _is_nested(value: Any) -> bool:
    """A batch of one."""
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], list)


def _image_list(value: Any) -> list[str]:
    if value is None:
        return []
    if _is_nested(value):
        value = value[0]
    images = value if isinstance(value, list) else [value]
    if any(not isinstance(image, str) for image in images):
        raise BadRequest("image_data should be a data URL, or a list of them")
    return images


def image_bytes(image: str, field: str = "image_data") -> bytes:
    """The file in a data URL. Paths and other URLs are refused: no file is read for clients.

    Args:
        field: of the request, for errors.

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


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise BadRequest(f"sampling_seed must be an integer of 64 bits, got {value!r}.")
    return value


def _score_from(body: Mapping[str, Any]) -> int | None:
    start = _integer(body, "logprob_start_len", -1, low=-1)
    return start if body.get("return_logprob") and start >= 0 else None


def _optional_string(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{key} should be a string")
    return value


def _number(params: Mapping[str, Any], key: str, default: float) -> float:
    value = params.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
        raise BadRequest(f"{key} must be a finite number, got {value!r}.")
    return float(value)


def _integer(
    params: Mapping[str, Any], key: str, default: int, low: int, high: int = 2**31 - 1
) -> int:
    value = params.get(key)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{key} must be an integer from {low} to {high}, got {value!r:.100}.")
    return value
