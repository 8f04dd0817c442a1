"""What a run has kept when its launcher ends, and the command that continues it."""

import re
import shlex
from pathlib import Path

_CHECKPOINT = re.compile(r"step-(\d{6,})")
_COMMAND = "deploy/launch_cluster.sh"


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest complete checkpoint of a run and its step. None means no checkpoint."""
    found = [
        (int(match[1]), path)
        for path in (folder / "checkpoints").glob("step-*")
        if (match := _CHECKPOINT.fullmatch(path.name))
    ]
    if not found:
        return None
    step, path = max(found)
    return path, step


def kept_text(folder: Path, is_complete: bool) -> str:
    """A line on what is kept and, if the run is not complete, one on how to continue."""
    newest = newest_checkpoint(folder)
    kept = "kept: no checkpoint yet"
    if newest is not None:
        kept = f"kept: the checkpoint of step {newest[1]}, {newest[0]}"
    if is_complete:
        return kept
    config = shlex.quote(str(folder / "config.toml"))
    return f"{kept}\nto go on: {_COMMAND} --config {config} --run.resume true"
