"""What an export has beside its weights: a checkpoint's side files, made fit to be given away."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.checkpoint.config_dtype import with_dtype
from learner.checkpoint.folder import readable
from learner.checkpoint.generation_config import with_end_tokens
from learner.checkpoint.local_traces import without_local_traces
from learner.checkpoint.paths import START_CONFIG
from learner.checkpoint.side_files import CONFIG, read_side_files
from learner.checkpoint.thinking_default import knows_thinking, with_thinking_default


@dataclass(frozen=True)
class Settings:
    """All files of an export but weights and manifest."""

    files: dict[str, bytes]  # by name
    thinking_default: bool | None  # that the chat templates got; None means unchanged


def read_settings(folder: Path, state: Mapping[str, Any] | None, dtype: str | None) -> Settings:
    """Read what lies beside the weights, and change what an export has otherwise.

    Args:
        state: of a checkpoint; None means a plain Hugging Face folder, whose chat template and end
            tokens stay.
        dtype: that config.json is to name; None means as the run's start has it.

    Raises:
        CheckpointError: a file cannot be read.
    """
    with readable(folder):
        files = read_side_files(folder)
        thinking = None
        if state is not None:
            files = with_end_tokens(files, state.get("end_token_ids", ()))
            thinking = _trained_to_think(folder) if knows_thinking(files) else None
        if thinking is not None:
            files = with_thinking_default(files, thinking)
        config = _config_of_start(folder, is_checkpoint=state is not None)
        files[CONFIG] = config if dtype is None else with_dtype(config, dtype)
        clean = {name: without_local_traces(name, content) for name, content in files.items()}
    return Settings(clean, thinking)


def _config_of_start(folder: Path, is_checkpoint: bool) -> bytes:
    """The config.json of the start: a plain folder's and an older checkpoint's own."""
    kept = folder / START_CONFIG
    return (kept if is_checkpoint and kept.is_file() else folder / CONFIG).read_bytes()


def _trained_to_think(folder: Path) -> bool:
    """The run's prompt.thinking; a run that does not say had the default."""
    with readable(folder / "run.toml"):
        run = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
    return bool(run.get("prompt", {}).get("thinking", False))
