"""The small files beside a model's weights: tokenizer, processor, templates, settings, licence.

They travel as they are, byte for byte: re-serialised by the transformers of the day they would say
less (a processor's settings of older versions, vocabulary beside tokenizer.json) or be refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TEMPLATES = "additional_chat_templates"  # the one folder of such files that readers know
_SUFFIXES = (".json", ".txt", ".jinja", ".model", ".tiktoken")
_LEGAL = ("LICENSE", "LICENCE", "NOTICE")  # a model card is left: it speaks of another model
_OTHERS = {CONFIG, "state.json", "MANIFEST.json", "trainer_state.json"}


def list_side_files(folder: Path) -> list[str]:
    """Their names relative to a Hugging Face folder or a checkpoint, sorted; no config.json.

    Raises:
        OSError: the folder cannot be read.
    """
    every = (*folder.iterdir(), *(folder / TEMPLATES).glob("*"))
    found = (path for path in every if path.is_file() and _is_side(path))
    return sorted(path.relative_to(folder).as_posix() for path in found)


def read_side_files(folder: Path) -> dict[str, bytes]:
    """Their content by name. Raises OSError."""
    return {name: (folder / name).read_bytes() for name in list_side_files(folder)}


def write_side_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write small files into a folder; OSError if that fails."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def parse_json(name: str, content: bytes) -> Any:
    """A side file's document. Raises ValueError: it is no JSON; the file is named."""
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _is_side(path: Path) -> bool:
    if path.name.startswith(".") or path.name in _OTHERS or path.name.endswith(".index.json"):
        return False
    return path.suffix in _SUFFIXES or path.name.upper().startswith(_LEGAL)
