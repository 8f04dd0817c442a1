"""Whether the model's context holds a prompt and a response. Pure, but for two small files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.errors import ConfigError
from common.types import Sample

_FLAG = "--context-length"  # of SGLang
_MARGIN = 0.9  # a picture's tokens are estimated: only what is certain is refused


def check_context(config: RunConfig, model_folder: Path, samples: Iterable[Sample]) -> None:
    """
    Args:
        model_folder: of the model's files on this machine.

    Raises:
        ConfigError: no response of rollout.max_response_tokens fits behind any prompt of the data.
    """
    limit, source = context_limit(config, _read(model_folder / "config.json"))
    if limit is None:
        return
    response = config.rollout.max_response_tokens
    unit = _pixels_a_token(model_folder)
    pictures = (_fewest_tokens(sample, *unit) for sample in samples) if unit else ()
    least = max(1, min(pictures, default=1))
    if least + response > limit:
        raise ConfigError(
            f"rollout.max_response_tokens = {response}, but the context holds {limit} tokens "
            f"({source}) and the data's shortest prompt has {least} or more: no row fits. "
            f"Fix: rollout.max_response_tokens = {max(1, limit // 2)} or another value that leaves "
            "room for prompts"
        )


def context_limit(config: RunConfig, model: Mapping[str, Any]) -> tuple[int | None, str]:
    """Tokens of prompt and response together, and where that stands; None: nobody says.

    Args:
        model: the model's config.json.
    """
    if config.rollout.engine == "sglang" and not config.rollout.engine_urls:
        flag = _flag_value(config.sglang.extra_flags)
        if flag is not None:
            return flag, f"sglang.extra_flags: {_FLAG}"
        if config.sglang.context_tokens is not None:
            return config.sglang.context_tokens, "sglang.context_tokens"
    text = model.get("text_config") or model
    longest = text.get("max_position_embeddings")
    if not isinstance(longest, int):
        return None, ""
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    factor = scaling.get("factor", 1) if isinstance(scaling, dict) else 1
    is_longer = isinstance(factor, int | float) and factor > 1
    return int(longest * (factor if is_longer else 1)), "max_position_embeddings of model.path"


def _flag_value(flags: Sequence[str]) -> int | None:
    for flag, following in zip(flags, (*flags[1:], ""), strict=False):
        name, equals, value = flag.partition("=")
        value = value if equals else following
        if name == _FLAG and value.isdecimal():
            return int(value)
    return None


def _fewest_tokens(sample: Sample, pixels: float, least: float, most: float) -> int:
    area = min(max(sample.image.width * sample.image.height, least), most)
    return int(_MARGIN * area / pixels)


def _pixels_a_token(folder: Path) -> tuple[float, float, float] | None:
    """(Pixels of a picture's token, fewest and most pixels of a picture); None: not known."""
    settings = _read(folder / "preprocessor_config.json")
    settings = settings or _read(folder / "processor_config.json").get("image_processor", {})
    try:
        size = settings["size"]
        side = settings["patch_size"] * settings["merge_size"]
        return float(side**2), float(size["shortest_edge"]), float(size["longest_edge"])
    except (KeyError, TypeError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
