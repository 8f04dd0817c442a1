"""The dtype that a model's config.json names, in the way in which it names it.

transformers 4.56 and later write `dtype`, earlier ones `torch_dtype`, and each family in the whole,
in its parts or in both. Nothing but the value changes, so programs that read it still can.
"""

import json
from collections.abc import Iterator
from typing import Any

from learner.checkpoint.side_files import CONFIG, parse_json

_KEYS = ("dtype", "torch_dtype")
_TEXT = "text_config"
_FOREIGN = "quantization_config"  # has a dtype of another meaning


def with_dtype(content: bytes, dtype: str) -> bytes:
    """The config.json with another dtype; itself where it names that one already.

    Raises:
        ValueError: it is no JSON object.
    """
    config = parse_json(CONFIG, content)
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG} is no JSON object")
    before = json.dumps(config)
    for part in _parts(config):
        part.update({key: dtype for key in _KEYS if key in part})
    if not any(key in part for part in (config, config.get(_TEXT) or {}) for key in _KEYS):
        config[_usual_key(config)] = dtype
    if json.dumps(config) == before:
        return content
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield config
    for name, part in config.items():
        if isinstance(part, dict) and name.endswith("_config") and name != _FOREIGN:
            yield part


def _usual_key(config: dict[str, Any]) -> str:
    if any("torch_dtype" in part for part in _parts(config)):
        return "torch_dtype"
    return "torch_dtype" if str(config.get("transformers_version")).startswith("4.") else "dtype"
