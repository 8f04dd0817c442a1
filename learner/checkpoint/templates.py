"""Chat templates wherever a Hugging Face folder keeps them, changed in all places at once.

Readers disagree on which place counts. In transformers 4.57 and 5.19 alike a processor takes
chat_template.json before chat_template.jinja, a tokenizer takes chat_template.jinja before the key
in tokenizer_config.json and never reads chat_template.json; and 5.19's processor takes a key in
processor_config.json before both. Where all places say the same, no reader sees another template.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from learner.checkpoint.side_files import TEMPLATES, parse_json

DEFAULT = "default"
_JINJA = "chat_template.jinja"
_FOLDER = f"{TEMPLATES}/"
_HOLDERS = ("chat_template.json", "tokenizer_config.json", "processor_config.json")
_KEY = "chat_template"
Change = Callable[[str, str], str]


def change_templates(files: Mapping[str, bytes], change: Change) -> dict[str, bytes]:
    """Files of a Hugging Face folder with each of its templates changed; all others as they were.

    Args:
        files: content by name.
        change: takes a template's name ("default" is the one used when none is asked for) and text.

    Raises:
        ValueError: a file that may hold a template is no JSON, or no text.
    """
    return {name: _changed(name, content, change) for name, content in files.items()}


def replace_default(files: Mapping[str, bytes], template: str) -> dict[str, bytes]:
    """The same with another default template, also where the folder had none."""
    changed = change_templates(files, lambda name, old: template if name == DEFAULT else old)
    return {**changed, _JINJA: template.encode()}


def _changed(file_name: str, content: bytes, change: Change) -> bytes:
    if file_name == _JINJA:
        return change(DEFAULT, content.decode()).encode()
    if file_name.startswith(_FOLDER):
        name = file_name.removeprefix(_FOLDER).removesuffix(".jinja")
        return change(name, content.decode()).encode()
    if file_name in _HOLDERS:
        return _changed_in_json(parse_json(file_name, content), content, change)
    return content


def _changed_in_json(document: Any, content: bytes, change: Change) -> bytes:
    old = document.get(_KEY) if isinstance(document, dict) else None
    if old is None or (new := _changed_value(old, change)) == old:
        return content
    return (json.dumps({**document, _KEY: new}, indent=2, ensure_ascii=False) + "\n").encode()


def _changed_value(value: Any, change: Change) -> Any:
    """The changed value of one template, of several by name, or of a list with names."""
    if isinstance(value, str):
        return change(DEFAULT, value)
    if isinstance(value, dict):
        return {name: change(name, template) for name, template in value.items()}
    return [{**one, "template": change(one["name"], one["template"])} for one in value]
