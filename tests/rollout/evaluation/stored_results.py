"""RESULT folders as rollout.evaluate writes them, for the tests of what reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from common.page import small_jpeg
from common.statistics import wilson
from rollout.evaluation.stored_result import StoredResult, read_result

IDENTITY: dict[str, Any] = {
    "prompt_style": "paper",
    "labels": "paper",
    "max_tokens": 4096,
    "temperature": 0.0,
    "thinking": False,
    "min_pixels": None,
    "max_pixels": None,
    "judge": None,
    "view": "full",
}
SOURCE: dict[str, Any] = {
    "dataset": "lmms-lab/vstar-bench",
    "revision": "d9ae62c",
    "rows": 191,
    "limit": 0,
    "sha256": "ab" * 32,
}
OUTCOMES = {"+": "right", "-": "wrong", "?": "undecided", "!": "failed"}


def items(outcomes: str, **changes: Any) -> list[dict[str, Any]]:
    """One item a character of + (right), - (wrong), ? (undecided), ! (failed)."""
    return [_item(number, OUTCOMES[sign]) | changes for number, sign in enumerate(outcomes)]


def write_result(
    folder: Path,
    sets: dict[str, Sequence[dict[str, Any]]],
    model: str = "Qwen/Qwen3.5-4B",
    source: dict[str, Any] | None = None,
    **identity: Any,
) -> Path:
    """A result with a picture.

    Args:
        sets: items by set.
        source: what the identity of each set has otherwise.
        identity: what the others have otherwise.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "pictures/0.jpg").write_bytes(small_jpeg(Image.new("RGB", (32, 24), "red")))
    document = {
        "format": 1,
        "model": model,
        "view": "full",
        "identity": {
            **IDENTITY,
            **identity,
            "sets": {name: SOURCE | (source or {}) for name in sets},
        },
        "sets": {name: _set(found) for name, found in sets.items()},
        "started": "2026-11-30T01:00:00+00:00",
        "seconds": 12.5,
    }
    (folder / "result.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def make_result(folder: Path, outcomes: str, **options: Any) -> StoredResult:
    return read_result(write_result(folder, {"vstar": items(outcomes)}, **options))


def _set(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    of = sum(item["outcome"] != "failed" for item in found)
    right = sum(item["outcome"] == "right" for item in found)
    low, high = wilson(right, of)
    figure = {
        "value": right / of if of else 0.0,
        "right": right,
        "of": of,
        "low": low,
        "high": high,
    }
    return {
        "title": "V*",
        "figures": {"accuracy": figure},
        "headline": "accuracy",
        "failed": len(found) - of,
        "cut": sum(item["cut"] for item in found),
        "undecided": sum(item["outcome"] == "undecided" for item in found),
        "items": list(found),
    }


def _item(number: int, outcome: str) -> dict[str, Any]:
    said = {"right": "B", "wrong": "C"}.get(outcome)
    return {
        "id": f"q{number}",
        "outcome": outcome,
        "cut": False,
        "answer": "B",
        "said": said,
        "reply": None if outcome == "failed" else f"The answer is {said}.",
        "error": "HTTP 500" if outcome == "failed" else None,
        "question": f"What is it, {number}?",
        "picture": "pictures/0.jpg",
        "fields": {"category": "single" if number % 2 else "cross", "name": str(number)},
    }
