"""Which tokens end a response: one rule for rollout, measuring and export.

A checkpoint names them in up to three places that need not agree: generation_config.json,
config.json (its text part) and the tokenizer. SGLang stops at any of them, and so does everything
here. Reported where only one was read: huggingface/open-r1#663, Blaizzy/mlx-vlm#2112.
"""

from collections.abc import Iterable
from typing import Any


def end_token_ids(*sources: int | Iterable[int | None] | None) -> list[int]:
    """Every id that one of the sources names, ascending, each once.

    Args:
        sources: an id, several, or none, as generation config, text config and tokenizer have it.
    """
    found: set[int | None] = set()
    for source in sources:
        found |= {source} if source is None or isinstance(source, int) else set(source)
    return sorted(token for token in found if token is not None)


def end_token_ids_of(model: Any, tokenizer: Any) -> list[int]:
    """Every end token of a loaded Hugging Face model and its tokenizer; [] if none is named."""
    return end_token_ids_in(getattr(model, "generation_config", None), model.config, tokenizer)


def end_token_ids_in(generation: Any, config: Any, tokenizer: Any) -> list[int]:
    """Every end token that a checkpoint's settings name.

    Args:
        generation: its generation config; None means that it has none.
        config: the whole model's.
    """
    places = (generation, config, config.get_text_config(), tokenizer)
    return end_token_ids(*(getattr(place, "eos_token_id", None) for place in places))
