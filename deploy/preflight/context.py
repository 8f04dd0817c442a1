"""Whether the model's context holds a prompt and a response. Pure, but for two small files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.engines import engine_of
from common.errors import ConfigError
from common.files import json_object_or_empty
from common.picture_grid import grid_of_folder
from common.types import Sample


def check_context(config: RunConfig, model_folder: Path, samples: Iterable[Sample]) -> None:
    """Whether some row and a whole response fit into the context.

    Args:
        model_folder: of the model's files on this machine.

    Raises:
        ConfigError: no response of rollout.max_response_tokens fits behind any prompt of the data.
    """
    limit, source = context_limit(config, json_object_or_empty(model_folder / "config.json"))
    if limit is None:
        return
    response = config.rollout.max_response_tokens
    grid = grid_of_folder(model_folder)
    sizes = {(sample.image.width, sample.image.height) for sample in samples} if grid else ()
    least = max(1, min((grid.tokens_of(*size) for size in sizes if grid), default=1))
    if least + response > limit:
        raise ConfigError(
            f"rollout.max_response_tokens = {response}, but the context holds {limit} tokens "
            f"({source}) and the data's shortest prompt has {least} or more: no row fits. "
            f"Fix: rollout.max_response_tokens = {max(1, limit // 2)} or another value that leaves "
            "room for prompts"
        )


def context_limit(config: RunConfig, model: Mapping[str, Any]) -> tuple[int | None, str]:
    """Tokens of prompt and response together, and where that stands. None means not known.

    Args:
        model: the model's config.json.
    """
    if not config.rollout.engine_urls and (limit := engine_of(config).context_limit(config)):
        return limit
    text = model.get("text_config") or model
    longest = text.get("max_position_embeddings")
    if not isinstance(longest, int):
        return None, ""
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    factor = scaling.get("factor", 1) if isinstance(scaling, dict) else 1
    is_longer = isinstance(factor, int | float) and factor > 1
    return int(longest * (factor if is_longer else 1)), "max_position_embeddings of model.path"
