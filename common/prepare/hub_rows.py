"""hf:NAME[@REVISION][:SPLIT]: a dataset on the hub, its files of rows and of pictures."""

import re
from pathlib import Path
from typing import NamedTuple

from common.errors import ConfigError
from common.hub_datasets import dataset_snapshot

PREFIX = "hf:"
_FORM = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<split>[\w-]+))?")
_ROWS = ("*.parquet", "*.jsonl")
_PICTURES = ("*.jpg", "*.jpeg", "*.png", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff")
# How `datasets` tells splits by the names of files.
_SPLITS = {"train": "train|training", "validation": "validation|valid|dev|val",
           "test": "test|testing|eval|evaluation"}  # fmt: skip


class HubInput(NamedTuple):
    name: str
    revision: str | None
    split: str | None


def parsed(text: str) -> HubInput:
    """The parts of hf:NAME[@REVISION][:SPLIT]; ConfigError if it has another form."""
    match = _FORM.fullmatch(text.removeprefix(PREFIX))
    if match is None:
        raise ConfigError(
            f"--input {text}: no name on the hub. Fix: write hf:ORGANISATION/NAME, "
            "hf:ORGANISATION/NAME@REVISION or hf:ORGANISATION/NAME@REVISION:SPLIT"
        )
    return HubInput(match["name"], match["revision"], match["split"])


def downloaded(wanted: HubInput) -> tuple[Path, list[Path], str]:
    """The dataset's folder, its files of rows of that split, and the commit. Raises ConfigError."""
    folder, commit = dataset_snapshot(wanted.name, wanted.revision, (*_ROWS, *_PICTURES))
    files = [p for pattern in _ROWS for p in sorted(folder.rglob(pattern))]
    return folder, of_split(files, folder, wanted), commit


def of_split(files: list[Path], folder: Path, wanted: HubInput) -> list[Path]:
    """The files of the wanted split; ConfigError if there are none, several, or not this one."""
    names = {path: path.relative_to(folder).as_posix() for path in files}
    if not files:
        raise ConfigError(
            f"--input {PREFIX}{wanted.name}: it has neither .parquet nor .jsonl files. Fix: "
            "download it, and write its rows as JSONL"
        )
    known = [split for split in _SPLITS if any(_is_of(name, split) for name in names.values())]
    split = wanted.split or (known[0] if len(known) == 1 else None)
    chosen = [path for path in files if split is not None and _is_of(names[path], split)]
    if wanted.split is None and not known:
        chosen = files
    if not chosen:
        shown = ", ".join(known) or ", ".join(list(names.values())[:10])
        raise ConfigError(
            f"--input {PREFIX}{wanted.name}: no one split is meant; there are {shown}. Fix: write "
            f"{PREFIX}{wanted.name}:SPLIT"
        )
    return chosen


def _is_of(name: str, split: str) -> bool:
    words = _SPLITS.get(split, re.escape(split))
    return re.search(rf"(^|[/._ -])({words})([/._ -]|$)", name) is not None
