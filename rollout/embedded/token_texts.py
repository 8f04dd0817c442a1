"""Tokens as text: one by one with their bytes, and as a text that grows."""

import functools
from collections.abc import Sequence
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

_OPEN = "\ufffd"  # stands for bytes that are no character, or not yet


class TokenTexts:
    """The texts and bytes of single tokens; a token without a text has bytes, too."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder)

    def text(self, token: int) -> str:
        found: str = self._tokenizer.decode([token])
        return found

    def bytes_of(self, token: int) -> list[int]:
        if self._is_byte_level:
            piece = self._tokenizer.convert_ids_to_tokens(token) or ""
            values = [_bytes_by_character().get(character) for character in piece]
            if None not in values:
                return [value for value in values if value is not None]
        return list(self.text(token).encode())


class GrowingText:
    """The text of a response, token by token.

    It grows by whole characters: what is still open waits for the next token. Not tokenizers'
    DecodeStream, which fails on bytes that are no UTF-8, as sampled tokens may be.
    """

    def __init__(self, tokenizer: Any, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._context = 0  # tokens before this one change nothing of what comes
        self._given = 0  # tokens whose text has been returned

    def grown(self, token_ids: Sequence[int]) -> str:
        """What the tokens beyond those of the last call add.

        Args:
            token_ids: all of the response so far.
        """
        known = self._decode(token_ids[self._context : self._given])
        text = self._decode(token_ids[self._context :])
        if text.endswith(_OPEN) or len(text) <= len(known):
            return ""
        self._context, self._given = self._given, len(token_ids)
        return text[len(known) :]

    def _decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=self._skip_special_tokens
        )
        return text


@functools.cache
def _bytes_by_character() -> dict[str, int]:
    return {character: value for value, character in bytes_to_unicode().items()}
