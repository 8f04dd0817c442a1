"""A chat template that thinks, or not, by default as the model was trained.

A template that names `enable_thinking` decides by itself what holds when a request says nothing:
that of Qwen3.5-4B thinks. A statement before its first line makes the trained mode the default; a
request may still set the other. It has the form that SGLang 0.5.23 reads a default from
(srt/parser/template_detection.py), and variables of requests still reach it: Jinja counts the name
as undeclared, which is what transformers goes by.
"""

from collections.abc import Mapping

from common.chat_template import SWITCH, names_switch
from learner.checkpoint.templates import change_templates

_STATEMENT = """\
{{#- Trained with {switch} = {value}, which is the default here; a request may set it. -#}}
{{%- set {switch} = {switch} | default({value}) %}}
"""


def with_thinking_default(files: Mapping[str, bytes], thinking: bool) -> dict[str, bytes]:
    """Files of a Hugging Face folder; every template that names the switch gets the statement.

    Raises:
        ValueError: a file that may hold a template is no JSON, or no text.
    """
    return change_templates(files, lambda name, template: default_to(template, thinking))


def knows_thinking(files: Mapping[str, bytes]) -> bool:
    """Whether a template names the switch. Raises as above."""
    found: list[bool] = []

    def look(name: str, template: str) -> str:
        found.append(names_switch(template))
        return template

    change_templates(files, look)
    return any(found)


def default_to(template: str, thinking: bool) -> str:
    """One template, whose own statement of an earlier export is replaced."""
    for value in (True, False):
        template = template.removeprefix(_statement(value))
    return _statement(thinking) + template if names_switch(template) else template


def _statement(value: bool) -> str:
    return _STATEMENT.format(switch=SWITCH, value="true" if value else "false")
