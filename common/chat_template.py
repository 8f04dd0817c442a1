"""What a chat template does about thinking, judged by the text that it renders.

    thinks unless told not to    <|im_start|>assistant\n<think>\n                  (Qwen3.5-4B)
    thinks only if told to       <|im_start|>assistant\n<think>\n\n</think>\n\n    (Qwen3.5-0.8B)
    knows no thinking            <|im_start|>assistant\n                           (Qwen2.5-VL)

The published run never thinks. The switch `enable_thinking` is given to a template only
if it names it: transformers 5.19 logs a line at each call otherwise.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError

if TYPE_CHECKING:
    from common.config import PromptSection

SWITCH = "enable_thinking"
_OPEN, _CLOSE = "<think>", "</think>"
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)


def names_switch(template: str) -> bool:
    """Whether a template asks for `enable_thinking` anywhere."""
    return re.search(rf"\b{SWITCH}\b", _COMMENT.sub("", template)) is not None


def template_of(processor: Any, prompt: "PromptSection") -> str | None:
    """The template that is configured, or that of a checkpoint's processor, or None.

    Raises:
        ConfigError: the configured one cannot be read.
    """
    if prompt.chat_template is not None:
        return read_template(prompt.chat_template)
    found = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(found, dict):  # a checkpoint may have several
        found = found.get("default")
    return str(found) if found else None


def template_options(template: str, prompt: "PromptSection") -> dict[str, Any]:
    """What a template is given besides the messages, wherever it is rendered."""
    return {SWITCH: prompt.thinking} if names_switch(template) else {}


def check_thinking(tail: str, template: str, prompt: "PromptSection") -> None:
    """Check that a rendered prompt ends in the mode that is configured.

    Args:
        tail: the text after the user's turn.

    Raises:
        ConfigError: it does not, whatever it is told.
    """
    is_open = tail.rfind(_OPEN) > tail.rfind(_CLOSE)
    if is_open and not prompt.thinking:
        raise ConfigError(
            "prompt.thinking = false, but the chat template opens a think block whatever it is "
            f"told: the prompt ends in {tail[-40:]!r}. Fix: name a template that does not "
            "(prompt.chat_template = FILE), choose a model that can answer at once, or set "
            "prompt.thinking = true"
        )
    if not prompt.thinking or is_open:
        return
    if _CLOSE in tail:
        raise ConfigError(
            "prompt.thinking = true, but the chat template closes the think block whatever it is "
            f"told: the prompt ends in {tail[-40:]!r}. Fix: prompt.thinking = false, or name "
            "another template (prompt.chat_template = FILE)"
        )
    if not names_switch(template) and _OPEN not in template:
        raise ConfigError(
            "prompt.thinking = true, but the chat template knows no thinking. Fix: "
            "prompt.thinking = false, or name another template (prompt.chat_template = FILE)"
        )


def read_template(path: Path) -> str:
    """Read a template's text; ConfigError if that fails."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the chat template {str(path)!r} cannot be read: {error}. Fix: write it as UTF-8, or "
            "name another Jinja file by prompt.chat_template"
        ) from error
