"""What a run starts from, beside the weights that it trains: all this goes into checkpoints.

It is read before the first step, so that no checkpoint of the last fails for a file that is gone or
that transformers refuses to write.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from common.config import ModelSection, RunConfig
from common.errors import ConfigError
from common.model_files import weight_files
from learner.checkpoint.names import known_names, names_in_files
from learner.checkpoint.paths import START_CONFIG, STATE, UNKNOWN
from learner.checkpoint.side_files import CONFIG, read_side_files
from learner.checkpoint.templates import replace_default
from learner.checkpoint.tensor_files import TensorFiles
from learner.model.lora import base_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartFiles:
    """A folder's files: in memory, but for the tensors, which stay where they are."""

    config: bytes  # its config.json
    first_config: bytes  # the same before any run: it names the dtype that the model came in
    side_files: dict[str, bytes]  # by name; the run's chat template is in its place
    dtypes: dict[str, str] | None  # of tensors by name; None means unknown (an older checkpoint)
    tensors: TensorFiles


@dataclass(frozen=True)
class Start:
    """The files, and what the model that was loaded from them makes of them."""

    files: StartFiles
    names_in_files: dict[str, str]  # parameter name -> name in the files, where they differ
    unknown: tuple[str, ...]  # tensors that the model has not
    end_token_ids: tuple[int, ...]  # where training stops a response


def start_folder(model: ModelSection) -> Path:
    """Where the files lie that the run starts from.

    Raises:
        ConfigError: no folder.
    """
    folder = Path(model.path)
    if not folder.is_dir():
        raise ConfigError(
            f"model.path = {model.path!r}: no such folder, so checkpoints would lack its tokenizer "
            "and processor. Fix: name the local folder of the start"
        )
    return folder


def read_start(config: RunConfig, model: nn.Module, end_token_ids: Sequence[int]) -> Start:
    """Read it.

    Args:
        model: as loaded from `config.model`; sharded or not.
        end_token_ids: where training stops a response.

    Raises:
        ConfigError: a file is missing or cannot be read.
    """
    files = _read_files(start_folder(config.model), config.prompt.chat_template)
    names = names_in_files(model, base_names(model))
    stored = {names.get(name, name) for name in base_names(model)}
    return Start(
        files=files,
        names_in_files=names,
        unknown=_unknown(files.tensors.forms, known_names(model), stored),
        end_token_ids=tuple(end_token_ids),
    )


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _read_files(folder: Path, chat_template: Path | None) -> StartFiles:
    try:
        side_files = read_side_files(folder)
        if chat_template is not None:
            side_files = replace_default(side_files, chat_template.read_text(encoding="utf-8"))
        config = (folder / CONFIG).read_bytes()
        tensors = TensorFiles(_weights(folder))
        return StartFiles(
            config=config,
            first_config=_content(folder / START_CONFIG) or config,
            side_files=side_files,
            dtypes=_dtypes(folder, tensors),
            tensors=tensors,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(
            f"model.path = {str(folder)!r}: its files cannot be read: {error}. "
            "Fix: bring the folder back as it was published"
        ) from error


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _weights(folder: Path) -> list[Path]:
    """Weight files of the start, with what a checkpoint keeps aside; none in another format."""
    return [path for path in (*weight_files(folder), folder / UNKNOWN) if path.is_file()]


def _dtypes(folder: Path, tensors: TensorFiles) -> dict[str, str] | None:
    """The dtypes of the start; for a checkpoint those that its run started from, not its own."""
    state = _content(folder / STATE)
    if state is not None:
        known: dict[str, str] | None = json.loads(state).get("dtypes")
        return known
    return {name: name_of(form.dtype) for name, form in tensors.forms.items()} or None


def _unknown(forms: Iterable[str], known: set[str], stored: set[str]) -> tuple[str, ...]:
    """Names in the files that the model knows no tensor by, unless it stores them by others."""
    strange = tuple(sorted(set(forms) - known))
    if not strange or stored <= set(forms):
        return strange
    logger.warning(
        "the model knows some tensors of its files by other names: which of %d, such as %s, it "
        "does not know at all cannot be told, and checkpoints go without them",
        len(strange), strange[0],
    )  # fmt: skip
    return ()
