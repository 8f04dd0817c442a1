"""Tokens as text: one by one with their bytes, and as a text that grows."""

import functools
from collections.abc import Sequence
from typing import Any

from tokenizers import decoders
from transformers.convert_slow_tokenizer import bytes_to_unicode


class TokenTexts:
    """What log-probs name tokens by. Bytes are the token's own even where its text is none."""

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

    It grows by whole characters: what is still open waits for the next token.
    """

    def __init__(self, tokenizer: Any, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = decoders.DecodeStream(skip_special_tokens=skip_special_tokens)
        self._num_tokens = 0

    def grown(self, token_ids: Sequence[int]) -> str:
        """What the tokens beyond those of the last call add.

        Args:
            token_ids: all of the response so far.
        """
        new = token_ids[self._num_tokens :]
        self._num_tokens += len(new)
        return "".join(self._stream.step(self._tokenizer, token) or "" for token in new)


@functools.cache
def _bytes_by_character() -> dict[str, int]:
    return {character: value for value, character in bytes_to_unicode().items()}
