"""Held-out items before, while and after training: RUN/heldout/step-000010.jsonl."""

import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from deploy.inspector.followed import FollowedRows, Row

FOLDER = "heldout"
_FILE = re.compile(r"step-(\d+)\.jsonl")
CHANGES = ("all", "gained", "lost", "same")
Key = tuple[str, str]  # set, sample_id
Value = TypeVar("Value")


def heldout_files(run: Path) -> dict[int, Path]:
    """The files by the step of the weights that answered, in its order."""
    matches = ((_FILE.fullmatch(p.name), p) for p in (run / FOLDER).glob("step-*.jsonl"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


class _Part(NamedTuple):
    """An answer to one view."""

    text: str
    is_correct: bool


class _Answered(NamedTuple):
    """An item as one version answered it; a part is None if it was not asked."""

    question: str | None
    answer: str | None
    full: _Part | None
    crop: _Part | None


class HeldoutItems:
    """The measurements of a run. Any thread may ask; of each file only what is new is read."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._files: dict[int, FollowedRows] = {}
        self._versions: dict[int, dict[Key, _Answered]] = {}
        self._same: dict[Any, Any] = {}  # most words are the same in many versions: they are shared

    def page(
        self,
        change: str = "all",
        set_name: str | None = None,
        text: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> dict[str, Any]:
        """The answer of `heldout`: the items that pass the filters, by set and sample.

        Args:
            change: "gained": wrong at first and right at last, as of the full image; "lost": the
                reverse; "same": judged alike.
            text: that question or an answer of any version holds, in upper or lower case.
        """
        with self._lock:
            versions = self._now()
            items: dict[Key, dict[int, _Answered]] = {}
            for step, rows in versions.items():
                for key, row in rows.items():
                    items.setdefault(key, {})[step] = row
        found = [
            key
            for key, rows in sorted(items.items())
            if set_name in (None, key[0])
            and change in ("all", _change_of(rows.values()))
            and (text is None or _holds(rows.values(), text.casefold()))
        ]
        return {
            "versions": list(versions),
            "sets": sorted({name for name, _ in items}),
            "total": len(found),
            "items": [_shown(key, items[key]) for key in found[offset : offset + limit]],
        }

    def _now(self) -> dict[int, dict[Key, _Answered]]:
        files = heldout_files(self._run)
        for step, path in files.items():
            is_anew, rows = self._files.setdefault(step, FollowedRows(path)).look()
            known = self._versions.setdefault(step, {})
            if is_anew:
                known.clear()
            for row in rows:
                key = str(row.get("set") or ""), str(row.get("sample_id"))
                known[self._shared(key)] = self._answered(row)
        return {step: self._versions[step] for step in files}

    def _answered(self, row: Row) -> _Answered:
        question, answer, full, crop = map(row.get, ("question", "answer", "full", "crop"))
        return _Answered(
            None if question is None else self._shared(str(question)),
            None if answer is None else self._shared(str(answer)),
            self._shared(_part(full)),
            self._shared(_part(crop)),
        )

    def _shared(self, value: Value) -> Value:
        found: Value = self._same.setdefault(value, value)
        return found


def _part(given: Any) -> _Part | None:
    if not isinstance(given, dict):
        return None
    return _Part(str(given.get("text") or ""), bool(given.get("is_correct")))


def _shown(key: Key, rows: Mapping[int, _Answered]) -> dict[str, Any]:
    first = next(iter(rows.values()))
    return {
        "sample_id": key[1],
        "set": key[0],
        "question": first.question,
        "answer": first.answer,
        "answers": {
            str(step): {
                "full": row.full and row.full._asdict(),
                "crop": row.crop and row.crop._asdict(),
            }
            for step, row in rows.items()
        },
    }


def _change_of(rows: Iterable[_Answered]) -> str:
    """What became of the full image from the first to the last measurement that asked about it."""
    judged = [row.full.is_correct for row in rows if row.full is not None]
    if not judged or judged[0] == judged[-1]:
        return "same"
    return "gained" if judged[-1] else "lost"


def _holds(rows: Iterable[_Answered], text: str) -> bool:
    told = {
        words
        for row in rows
        for words in (row.question, row.full and row.full.text, row.crop and row.crop.text)
        if words
    }
    return any(text in words.casefold() for words in told)
