"""Messages -> the prompt's text, by the checkpoint's chat template."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from common.chat_template import SWITCH, template_of, template_options
from common.config import PromptSection
from rollout.embedded.requests import BadRequest


class ChatTemplate:
    """The template of chat, rendered as for training: thinking as configured, unless asked.

    Args:
        processor: the checkpoint's.
        prompt: thinking and template.
    """

    def __init__(self, processor: Any, prompt: PromptSection) -> None:
        self._tokenizer = processor.tokenizer
        self._template = template_of(processor, prompt)
        self._options = template_options(self._template or "", prompt)

    def text(self, messages: Sequence[dict[str, Any]], thinking: bool | None) -> str:
        """The text with the generation prompt.

        Args:
            messages: {"role", "content"}: text, or parts {"type": "image"}, {"type": "text", ...}.
            thinking: None means what is configured. A template without the switch is not told.

        Raises:
            BadRequest: there is no template, or it refuses these messages.
        """
        if self._template is None:
            raise BadRequest("the checkpoint has no chat template. Fix: use /generate")
        options = dict(self._options)
        if SWITCH in options and thinking is not None:
            options[SWITCH] = thinking
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
                **options,
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise BadRequest(f"messages: the chat template refuses them: {error}") from error
        return rendered
