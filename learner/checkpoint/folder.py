"""The folder of checkpoints: which are complete, which may be gone back to, which are removed.

A checkpoint is written under another name and then renamed: a name that ends in digits is complete.
One that is to go is renamed first, so that half a folder never looks complete.
"""

import json
import os
import re
import shutil
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from common.config import RunConfig
from common.errors import CheckpointError
from common.files import replace_json, sha256_of_file, sync
from common.full_disk import when_there_is_room
from learner.checkpoint.paths import STATE
from learner.checkpoint.tensor_files import Part, digest_of_part
from learner.ranks import Ranks

_NAME = re.compile(r"step-(\d{6,})")
_SCORES = "scores.json"
_FACTS = {"version", "seed", "oldest", "names_in_files", "files"}

Digests = dict[str, str | list[str]]  # sha256 by file; of one that n ranks wrote, those of n parts


class Checkpoint(NamedTuple):
    """A complete checkpoint, with every file as it was written."""

    path: Path
    version: int
    names_in_files: Mapping[
        str, str
    ]  # parameter name -> name in the student's files, if it differs


# ---- names ---------------------------------------------------------------------------------------
def path_of(folder: Path, version: int) -> Path:
    return folder / f"step-{version:06d}"


def part_of(folder: Path, version: int) -> Path:
    """Where a checkpoint is until it is complete."""
    return folder / f".step-{version:06d}.part"


def version_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first.

    Raises:
        CheckpointError: one is a link. What it leads to could be anybody's, and be removed as old.
    """
    if not folder.is_dir():
        return []
    found = sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=version_of)
    for path in found:
        if path.is_symlink():
            raise CheckpointError(
                f"{path}: it is a link, which no learner wrote. Fix: put the folder itself there, "
                "or remove the link"
            )
    return found


# ---- find ----------------------------------------------------------------------------------------
def find_checkpoint(
    folder: Path, config: RunConfig, ranks: Ranks | None = None
) -> Checkpoint | None:
    """The newest checkpoint, checked file by file. None means that there is none.

    Args:
        ranks: each checks some of the files, and all hear what any of them found.

    Raises:
        CheckpointError: a file of it is missing, damaged or of another run.
    """
    complete = list_checkpoints(folder)
    if not complete:
        return None
    path = complete[-1]
    state = read_state(path)
    if state["version"] != version_of(path):
        raise unusable(path / STATE, f"it is of step {state['version']}")
    if state["seed"] != config.run.seed:
        raise CheckpointError(
            f"{path / STATE}: the checkpoint is of run.seed = {state['seed']}, this run has "
            f"{config.run.seed}. Fix: set it back, or name a new run.folder"
        )
    _check_together(path, state["files"], ranks)
    return Checkpoint(path, state["version"], state["names_in_files"])


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint's folder says about it.

    Raises:
        CheckpointError: it cannot be read, or is incomplete.
    """
    file = path / STATE
    try:
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unusable(file, f"it cannot be read: {error}") from error
    missing = _FACTS - set(state)
    if missing:
        raise unusable(file, f"it does not tell {', '.join(sorted(missing))}")
    return state


def check_files(path: Path, digests: Mapping[str, str | list[str]]) -> None:
    """Compare files with their digests; CheckpointError names one that is missing or differs."""
    _check_parts(path, _parts_of(digests))


def _check_together(
    path: Path, digests: Mapping[str, str | list[str]], ranks: Ranks | None
) -> None:
    if ranks is None or ranks.world_size == 1:
        check_files(path, digests)
        return
    problem = None
    try:
        _check_parts(path, _parts_of(digests)[ranks.rank :: ranks.world_size])
    except CheckpointError as error:
        problem = error
    problems = ranks.gathered_json(problem and str(problem))
    if any(problems):
        told = next(filter(None, problems))
        raise problem or CheckpointError(f"another rank cannot use the checkpoint: {told}")


def _parts_of(digests: Mapping[str, str | list[str]]) -> list[tuple[str, Part | None, str]]:
    """File, part (None means all of the file) and digest."""
    found: list[tuple[str, Part | None, str]] = []
    for name, digest in digests.items():
        if isinstance(digest, str):
            found.append((name, None, digest))
        else:
            found += [(name, Part(n, len(digest)), own) for n, own in enumerate(digest)]
    return found


def _check_parts(path: Path, parts: Sequence[tuple[str, Part | None, str]]) -> None:
    for name, part, digest in parts:
        if not (path / name).resolve().is_relative_to(path.resolve()):
            raise unusable(path / name, "it lies outside the checkpoint")
        if not (path / name).is_file():
            raise unusable(path / name, "it is missing")
        if _digest(path / name, part) != digest:
            raise unusable(path / name, "it is damaged")


def _digest(path: Path, part: Part | None) -> str | None:
    if part is None:
        return sha256_of_file(path)
    try:
        return digest_of_part(path, part)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None  # not even its header can be read


def unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {problem}. Fix: bring the checkpoint back as it was, or remove its folder to go "
        "on from the one before"
    )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What cannot be read of a checkpoint, inside, is an unusable one that names `path`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise unusable(path, f"it cannot be read: {error}") from error


# ---- which to keep -------------------------------------------------------------------------------
def oldest_target(folder: Path, version: int, keep: int) -> int:
    """The oldest step that a learner may have to go back to once `version` is complete.

    That is the oldest of the newest `keep`; but while `version` is not complete yet, a learner
    that dies goes on from the one before. A step that was given up once stays given up.
    """
    complete = list_checkpoints(folder)
    if not complete:
        return 0
    newest = version_of(complete[-1])
    remaining = sorted({*map(version_of, complete), version})[-keep:]
    given_up: int = read_state(complete[-1])["oldest"]
    return max(min(remaining[0], newest), given_up)


def roll_back_targets(folder: Path) -> list[int]:
    """Versions that the broker lets a learner go back to, oldest first.

    Those that are kept for their accuracy alone are not among them: the broker has forgotten the
    steps behind them.

    Raises:
        CheckpointError: the newest one's state cannot be read.
    """
    complete = list_checkpoints(folder)
    if not complete:
        return []
    oldest = read_state(complete[-1])["oldest"]
    return [version for version in map(version_of, complete) if version >= oldest]


def superseded(
    versions: Sequence[int], scores: Mapping[int, float], keep: int, keep_best: int
) -> list[int]:
    """Those that are neither among the newest `keep` nor among the `keep_best` with best scores."""
    newest = sorted(versions)[-keep:]
    scored = [version for version in versions if version in scores]
    best = sorted(scored, key=lambda version: (scores[version], version), reverse=True)[:keep_best]
    return sorted(set(versions) - set(newest) - set(best))


def remove_superseded(
    folder: Path,
    scores: Mapping[int, float],
    keep: int,
    keep_best: int,
    awaited: Collection[int] = (),
) -> None:
    """All but `awaited` ones, whose scores are not known yet."""
    versions = [version_of(path) for path in list_checkpoints(folder)]
    for version in set(superseded(versions, scores, keep, keep_best)) - set(awaited):
        _remove(path_of(folder, version), "old")


def remove_leftovers(folder: Path) -> None:
    """What a process that died had begun to write or to remove."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)


def discard_after(folder: Path, version: int) -> list[int]:
    """Remove the checkpoints of later steps, so that `find_checkpoint` finds that of `version`.

    The newest goes first: whenever the process dies, the newest that is left is a state that the
    run was in.

    Returns:
        The versions that were removed.

    Raises:
        CheckpointError: there is no checkpoint of `version`, or the broker has given it up.
    """
    if not path_of(folder, version).is_dir():
        raise CheckpointError(
            f"{path_of(folder, version)}: there is no such checkpoint to go back to. "
            f"Fix: choose one of {roll_back_targets(folder)}"
        )
    if version not in roll_back_targets(folder):
        raise CheckpointError(
            f"{path_of(folder, version)}: it is kept for its accuracy alone, the steps after it "
            f"can no longer be undone. Fix: choose one of {roll_back_targets(folder)}"
        )
    later = [v for v in map(version_of, list_checkpoints(folder)) if v > version]
    scores = read_scores(folder)
    if scores.keys() & set(later):
        write_scores(folder, {v: score for v, score in scores.items() if v not in later})
    if later:
        _pass_on_what_was_given_up(folder, version)
    for doomed in reversed(later):
        _remove(path_of(folder, doomed), "discarded")
    return later


def _pass_on_what_was_given_up(folder: Path, version: int) -> None:
    """Copy what only the newest checkpoint has into `version`, which is to be the newest."""
    oldest = read_state(list_checkpoints(folder)[-1])["oldest"]
    state = read_state(path_of(folder, version))
    if state["oldest"] < oldest:
        replace_json(path_of(folder, version) / STATE, {**state, "oldest": oldest}, is_synced=True)


def _remove(path: Path, why: str) -> None:
    hidden = path.with_name(f".{path.name}.{why}")
    os.replace(path, hidden)
    sync(path.parent)
    shutil.rmtree(hidden)


# ---- scores --------------------------------------------------------------------------------------
def read_scores(folder: Path) -> dict[int, float]:
    """Accuracy on full images by version, of the checkpoints that it was measured for.

    Raises:
        CheckpointError: the file is not as it was written.
    """
    file = folder / _SCORES
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return {int(version): float(score) for version, score in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{file}: it cannot be read: {error}. Fix: remove it; which checkpoints were best is "
            "then measured anew"
        ) from error


def write_scores(folder: Path, scores: Mapping[int, float]) -> None:
    """Waits for a disk that is full. Raises CheckpointError: the disk refuses otherwise."""
    document = {str(version): score for version, score in sorted(scores.items())}
    try:
        when_there_is_room(
            lambda: replace_json(folder / _SCORES, document, is_synced=True), folder / _SCORES
        )
    except OSError as error:
        raise CheckpointError(
            f"{folder / _SCORES}: it cannot be written: {error}. Fix: give the disk room"
        ) from error
