"""What a result is a result of: two that differ in it are not compared as they stand.

    RESULT/identity.json    written before the first request; later calls go on only with it

What decides the verdicts alone (labels, judge) and how many items are asked (limit) may change from
call to call: each reply belongs to its own item, and verdicts are made anew at the end of each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.files import json_object_or_empty, replace_json
from rollout.evaluation.settings import EvaluationSettings

FILE = "identity.json"
FORMAT = 1
_MAY_CHANGE = ("labels", "judge", "limit", "sha256")  # last words of their keys


@dataclass(frozen=True)
class SetIdentity:
    """One set of a result."""

    name: str
    dataset: str  # on the hub, or a file
    revision: str | None  # commit; None means files of a folder
    rows: int  # in the files
    limit: int  # number of items; 0 means all
    sha256: str | None = None  # digest of the items; None means not known before the end

    def fields(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "name"}


def identity_of(
    settings: EvaluationSettings, judge: Mapping[str, Any] | None, sets: Sequence[SetIdentity]
) -> dict[str, Any]:
    """The identity of a result, as result.json has it."""
    return {
        "prompt_style": settings.prompt,
        "labels": settings.labels,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "thinking": settings.thinking,
        "min_pixels": settings.limits.least,
        "max_pixels": settings.limits.most,
        "judge": judge,
        "view": settings.view,
        "sets": {one.name: one.fields() for one in sets},
    }


def take_folder(folder: Path, document: Mapping[str, Any]) -> None:
    """Write down whose replies a folder gets.

    Args:
        document: "model", "weights" (digest of a checkpoint's), "identity", and what else is to be
            remembered.

    Raises:
        ConfigError: it has others, or cannot be written.
    """
    before = json_object_or_empty(folder / FILE)
    if before and (found := changes(_of_replies(before), _of_replies(document))):
        told = "; ".join(f"{key} is {was!r} there, {now!r} here" for key, was, now in found)
        raise ConfigError(
            f"--out {folder} holds replies of another evaluation: {told}. Fix: name another folder,"
            " or give the same options"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_json(folder / FILE, {"format": FORMAT, **document}, is_synced=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}. Fix: see to the disk") from error


def stored(folder: Path) -> dict[str, Any]:
    """The document of a folder. Raises ConfigError: there is none."""
    document = json_object_or_empty(folder / FILE)
    if document.get("format") != FORMAT or not isinstance(document.get("identity"), dict):
        raise ConfigError(
            f"--out {folder}: no {FILE} of this version in it. Fix: name the folder of a result"
        )
    return document


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys with other values, as "sets.vstar.revision", and both values; a missing one is None."""
    old, new = dict(flat(before)), dict(flat(now))
    keys = [*old, *(key for key in new if key not in old)]
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _of_replies(document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a document that decides the replies."""
    parts = {"model": document.get("model"), "weights": document.get("weights")}
    found = flat(document["identity"])
    return parts | {key: value for key, value in found if not _may_change(key)}


def _may_change(key: str) -> bool:
    return key.startswith("judge.") or key.rpartition(".")[2] in _MAY_CHANGE


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of a tree as "sets.vstar.revision", and their values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
