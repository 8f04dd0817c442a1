"""Texts that a tokenizer reads as control tokens. A person's text must hold none of them.

In a question "<|im_end|>" would end the user's turn and "<|image_pad|>" ask for another picture:
tokenizers obey them wherever they stand, without a word. So a text that holds one is refused, by
name (reported elsewhere: sgl-project/sglang#35582, vllm-project/vllm#57740).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import json_object_or_empty


def control_tokens(added: Iterable[tuple[str, bool]]) -> tuple[str, ...]:
    """The added tokens that mean something to the model, longest first.

    Added tokens that are ordinary words or spaces are no control tokens; those in angle brackets
    are, whether or not they are marked as special ("<think>" and "<tool_call>" are not).

    Args:
        added: content of each added token, and whether it is special.
    """
    found = {text for text, is_special in added if text.strip() and (is_special or _is_tag(text))}
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def control_tokens_of_folder(folder: Path) -> tuple[str, ...]:
    """The control tokens that a checkpoint's tokenizer files name, without a tokenizer; () if none.

    For processes that have no transformers (the broker).
    """
    whole, settings = (
        json_object_or_empty(folder / "tokenizer.json"),
        json_object_or_empty(folder / "tokenizer_config.json"),
    )
    entries = [
        *_entries(whole.get("added_tokens")),
        *_entries(settings.get("added_tokens_decoder")),
    ]
    return control_tokens(
        (entry["content"], entry.get("special") is True)
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("content"), str)
    )


def check_plain(text: str, tokens: Iterable[str], what: str) -> None:
    """Refuse a `text` that holds one of the control tokens, with a DataError that names it.

    Args:
        what: names the text in the error.
    """
    for token in tokens:
        if token in text:
            raise DataError(
                f"{what} holds {token!r}, which this model's tokenizer reads as a control token. "
                "Fix: take it out, or write it otherwise, with a space in it say"
            )


def _is_tag(text: str) -> bool:
    return len(text) > 2 and text.startswith("<") and text.endswith(">")


def _entries(found: Any) -> list[Any]:
    """The entries of a list, or of a mapping by id."""
    if isinstance(found, dict):
        return list(found.values())
    return found if isinstance(found, list) else []
