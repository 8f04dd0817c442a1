"""Texts of token ids, by RUN/tokenizer/tokenizer.json: without the checkpoint, torch, transformers.

A model may cut a character between two tokens; what such a token holds is shown as its bytes.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.files import sha256_of_file

FILE = Path("tokenizer") / "tokenizer.json"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TokenDecoder:
    """Decodes; without a usable tokenizer a text is its ids. Any thread may ask."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / FILE
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._digest = ""
        self._looked_at: tuple[int, int] | None = None

    def note(self) -> str | None:
        """Why texts are ids; None means that they are texts."""
        if not self._path.is_file():
            return f"there is no {FILE}: answers are shown as token ids"
        if self._loaded() is None:
            return f"{FILE} is damaged: answers are shown as token ids"
        return None

    def digest(self) -> str:
        """Tells one tokenizer from another; empty without a usable one."""
        return "" if self._loaded() is None else self._digest

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids, without special tokens."""
        tokenizer = self._loaded()
        if tokenizer is None:
            return [" ".join(map(str, ids)) for ids in rows]
        found: list[str] = tokenizer.decode_batch(rows, skip_special_tokens=True)
        return found

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself, special tokens by their names."""
        tokenizer = self._loaded()
        if tokenizer is None:
            return [str(number) for number in ids]
        found = tokenizer.decode_batch([[number] for number in ids], skip_special_tokens=False)
        return [
            _as_bytes(tokenizer.id_to_token(number)) if _REPLACEMENT in piece else piece
            for number, piece in zip(ids, found, strict=True)
        ]

    def _loaded(self) -> Any:
        """The tokenizer; None means that there is no usable one. A file that comes later counts."""
        with self._lock:
            try:
                status = self._path.stat()
            except OSError:
                self._looked_at = self._tokenizer = None
                return None
            now = (status.st_mtime_ns, status.st_size)
            if self._looked_at != now:
                self._looked_at, self._tokenizer = now, _load(self._path)
                self._digest = sha256_of_file(self._path)
            return self._tokenizer


def _load(path: Path) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception:  # it raises no narrower one
        return None


def _as_bytes(token: str | None) -> str:
    """A token of bytes that are no whole characters, as <E2><82>."""
    if token is None:
        return _REPLACEMENT
    if token.startswith("<0x") and token.endswith(">"):  # byte fallback of SentencePiece
        return f"<{token[3:-1]}>"
    number_of = _numbers_of_characters()
    if not all(character in number_of for character in token):
        return token
    content = bytes(number_of[character] for character in token)
    return "".join(chr(number) if 32 <= number < 127 else f"<{number:02X}>" for number in content)


def _numbers_of_characters() -> dict[str, int]:
    """Which byte a character of a byte-level vocabulary stands for (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [number for number in range(256) if number not in plain]
    return {chr(number): number for number in plain} | {
        chr(256 + place): number for place, number in enumerate(others)
    }
