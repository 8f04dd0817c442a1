"""How many tokens a prompt has, counted without transformers: for the broker, before generation.

The chat template is rendered as transformers renders it, the text cut by the `tokenizers` library,
and the picture counted by its size. A template or tokenizer that this file cannot use costs the
count alone: the learner checks every prompt that it renders.
"""

import json
import logging
from pathlib import Path
from typing import Any

from common.chat_template import read_template, template_options
from common.config import PromptSection
from common.errors import DataError
from common.files import json_object_or_empty
from common.picture_grid import PictureGrid, grid_of_folder

logger = logging.getLogger(__name__)
_PLACEHOLDER = "<image>"
_SHORTEST = f"{_PLACEHOLDER}?"
_NFC_GROWTH = 3  # times that a text's UTF-8 may grow when a tokenizer normalises it
_SLACK = 16  # tokens that a tokenizer may add


class PromptLengths:
    """Counts only what could be too long: a text has no more tokens than bytes.

    Args:
        folder: the checkpoint's.
        grid: its image processor's.

    Raises:
        Exception: its files are of no use here, of any kind; see `lengths_of_folder`.
    """

    def __init__(self, folder: Path, prompt: PromptSection, grid: PictureGrid) -> None:
        self._grid = grid
        self._folder = folder
        text, self._names = _template(folder, prompt)
        self._options = template_options(text, prompt)
        self._template = _compiled(text)
        self._frame_bytes = len(self._rendered(_SHORTEST).encode())
        self._tokenizer: Any = None  # loaded when the first text must be counted

    def over(self, limit: int, problem: str, width: int, height: int) -> int | None:
        """Tokens of a prompt that has more than `limit`; None for one that has not.

        Args:
            width: the picture's, in pixels.

        Raises:
            DataError: no size of the picture will do.
        """
        image_tokens = self._grid.tokens_of(width, height)
        text_bytes = len(problem.encode()) * (1 if problem.isascii() else _NFC_GROWTH)
        if image_tokens + self._frame_bytes + text_bytes + _SLACK <= limit:
            return None
        tokens = image_tokens + self._text_tokens(problem) - 1  # one placeholder stands in the text
        return tokens if tokens > limit else None

    def _text_tokens(self, problem: str) -> int:
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        return len(self._tokenizer.encode(self._rendered(problem), add_special_tokens=False).ids)

    def _rendered(self, problem: str) -> str:
        before, _, after = problem.partition(_PLACEHOLDER)
        parts = [{"type": "text", "text": before}] if before else []
        parts += [{"type": "image"}, {"type": "text", "text": after}]
        rendered: str = self._template.render(
            messages=[{"role": "user", "content": parts}],
            add_generation_prompt=True,
            **self._names,
            **self._options,
        )
        return rendered


def lengths_of_folder(folder: Path, prompt: PromptSection) -> PromptLengths | None:
    """The counter of a checkpoint's prompts; None where its files do not tell."""
    grid = grid_of_folder(folder)
    if grid is None or not (folder / "tokenizer.json").is_file():
        return None
    try:
        lengths = PromptLengths(folder, prompt, grid)
        lengths.over(0, _SHORTEST, 64, 64)  # fails if the tokenizer's file is of no use
    except Exception as error:  # whatever a template, Jinja or the tokenizer may raise
        logger.info("prompts are not counted before generation: %r", error)
        return None
    return lengths


def _template(folder: Path, prompt: PromptSection) -> tuple[str, dict[str, str]]:
    """The text, and the names of special tokens that it may use."""
    settings = json_object_or_empty(folder / "tokenizer_config.json")
    names = {key: value for key, value in settings.items() if key.endswith("_token")}
    texts = {key: value for key, value in names.items() if isinstance(value, str)}
    if prompt.chat_template is not None:
        return read_template(prompt.chat_template), texts
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8"), texts
    found = json_object_or_empty(folder / "chat_template.json").get("chat_template")
    found = found or settings.get("chat_template")
    if not isinstance(found, str):
        raise DataError("no single chat template")
    return found, texts


def _compiled(text: str) -> Any:
    """Compile a template with what transformers gives it (`apply_chat_template`)."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(text)


def _refuse(message: str) -> None:
    raise DataError(message)
