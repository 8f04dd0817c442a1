"""Held-out items before, while and after training: RUN/heldout/step-000010.jsonl."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.inspector.followed import FollowedRows, Row

FOLDER = "heldout"
_FILE = re.compile(r"step-(\d+)\.jsonl")
CHANGES = ("all", "gained", "lost", "same")
_PARTS = ("full", "crop")


def heldout_files(run: Path) -> dict[int, Path]:
    """The files by the step of the weights that answered, in its order."""
    matches = ((_FILE.fullmatch(p.name), p) for p in (run / FOLDER).glob("step-*.jsonl"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def heldout(
    run: Path,
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
    versions = {step: FollowedRows(path).look().rows for step, path in heldout_files(run).items()}
    items: dict[tuple[str, str], dict[str, Any]] = {}
    for step, rows in versions.items():
        for row in rows:
            _add(items, step, row)
    found = [
        item
        for _, item in sorted(items.items())
        if set_name in (None, item["set"])
        and change in ("all", _change_of(item))
        and (text is None or _holds(item, text.casefold()))
    ]
    return {
        "versions": list(versions),
        "sets": sorted({name for name, _ in items}),
        "total": len(found),
        "items": found[offset : offset + limit],
    }


def _add(items: dict[tuple[str, str], dict[str, Any]], step: int, row: Row) -> None:
    key = (str(row.get("set") or ""), str(row.get("sample_id")))
    item = items.setdefault(
        key,
        {
            "sample_id": key[1],
            "set": key[0],
            "question": row.get("question"),
            "answer": row.get("answer"),
            "answers": {},
        },
    )
    item["answers"][str(step)] = {part: row.get(part) for part in _PARTS}


def _change_of(item: Mapping[str, Any]) -> str:
    """What became of the full image from the first to the last measurement that asked about it."""
    judged = [
        bool(answer["full"].get("is_correct"))
        for answer in item["answers"].values()
        if isinstance(answer["full"], dict)
    ]
    if not judged or judged[0] == judged[-1]:
        return "same"
    return "gained" if judged[-1] else "lost"


def _holds(item: Mapping[str, Any], text: str) -> bool:
    parts = [part for answer in item["answers"].values() for part in answer.values()]
    told = [part.get("text") for part in parts if isinstance(part, dict)]
    return any(text in str(words).casefold() for words in (item["question"], *told) if words)
