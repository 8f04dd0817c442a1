"""RUN/heldout/step-NNNNNN.jsonl: the answers behind an accuracy, for people who compare versions.

A line a sample: {"sample_id", "set", "question", "answer", "full": PART, "crop": PART}, where PART
is {"text", "is_correct"} or null for a view that could not be asked. A file is there whole or not
at all. Nothing waits for it: what a disk refuses is dropped, and told once.
"""

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.dataset import read_columns
from common.errors import DataError
from common.files import replacing

logger = logging.getLogger(__name__)
_FOLDER = "heldout"
_NAME = re.compile(r"step-(\d{6,})\.jsonl")
_MOST_ITEMS = 100_000  # lines a file
_SET_COLUMNS = ("set", "benchmark", "category")
Item = dict[str, Any]


class ItemFiles:
    """Writes the items of measurements.

    Args:
        step: that the run goes on from: files of later steps tell of weights that are undone.
        data: the held-out samples. The first of its columns set, benchmark and category names the
            set of each; without one, and for a row without one, that is the file's own name.
        limit: items that are kept of one measurement.
    """

    def __init__(self, run_folder: Path, step: int, data: Path, limit: int = _MOST_ITEMS) -> None:
        self._folder = run_folder / _FOLDER
        self._name, self._sets = data.stem, _sets_of(data)
        self._limit = limit
        self._has_told = False
        with self._dropping():
            _remove_after(self._folder, step)

    def write(self, version: int, items: Iterable[Item]) -> None:
        """Write the items of a measurement, in the place of an earlier one of that version."""
        with self._dropping():
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"step-{version:06d}.jsonl"
            with replacing(path) as part, part.open("w", encoding="utf-8") as file:
                for _, item in zip(range(self._limit), items, strict=False):
                    name = self._sets.get(item["sample_id"], self._name)
                    file.write(json.dumps({**item, "set": name}) + "\n")

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._has_told:
                logger.warning("answers to held-out samples are not kept: %s", error)
            self._has_told = True


def _sets_of(path: Path) -> dict[str, str]:
    """sample_id -> set, of those that have one by a column of the data."""
    for column in _SET_COLUMNS:
        with contextlib.suppress(DataError):  # it has no such column, or one of other things
            return read_columns(path, [column])[column]
    return {}


def _remove_after(folder: Path, step: int) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            if (match := _NAME.fullmatch(path.name)) and int(match[1]) > step:
                path.unlink(missing_ok=True)
