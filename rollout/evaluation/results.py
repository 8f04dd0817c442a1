"""RESULT/result.json: figures of each set, and what became of each item."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rollout.evaluation.figures import Scored
from rollout.evaluation.identity import FORMAT, SetIdentity
from rollout.evaluation.items import EvaluationSet
from rollout.evaluation.run import MeasuredItem

FILE = "result.json"
_HEAD, _TAIL = 500, 2500  # characters of a long reply; replies.jsonl has all of it


@dataclass(frozen=True)
class SetResult:
    """One set, measured."""

    source: EvaluationSet
    identity: SetIdentity  # what was known before the set was measured
    measured: Sequence[MeasuredItem]

    def named(self) -> SetIdentity:
        """The identity with the digest of the items, in their order."""
        digest = hashlib.sha256(b"".join(one.digest for one in self.measured))
        return replace(self.identity, sha256=digest.hexdigest())

    def document(self, labels: str) -> dict[str, Any]:
        """The set's part of result.json. Failed items count in no figure."""
        scored = [
            Scored(self.source.answer(one.item, labels), one.item.fields, one.verdict)
            for one in self.measured
            if one.verdict is not None
        ]
        figures = self.source.figures(scored)
        return {
            "title": self.source.title,
            "figures": {name: asdict(figure) for name, figure in figures.items()},
            "headline": self.source.headline,
            "answered": len(scored),
            "failed": len(self.measured) - len(scored),
            "cut": sum(one.reply.is_cut for one in self.measured),
            "undecided": sum(one.verdict.outcome == "undecided" for one in scored),
            "items": [_item(one, self.source.answer(one.item, labels)) for one in self.measured],
        }


def result_document(
    model: str,
    identity: Mapping[str, Any],
    sets: Sequence[SetResult],
    started: str,
    seconds: float,
) -> dict[str, Any]:
    """The content of result.json.

    Args:
        started: ISO 8601, with its offset.
        seconds: how long this call took; stored replies took none.
    """
    return {
        "format": FORMAT,
        "model": model,
        "view": identity["view"],
        "identity": identity,
        "sets": {one.source.name: one.document(identity["labels"]) for one in sets},
        "started": started,
        "seconds": round(seconds, 3),
    }


def _item(one: MeasuredItem, answer: str) -> dict[str, Any]:
    verdict = one.verdict
    return {
        "id": one.item.id,
        "outcome": "failed" if verdict is None else verdict.outcome,
        "cut": one.reply.is_cut,
        "judged": one.is_judged,
        "answer": answer,
        "said": None if verdict is None else verdict.said,
        "reply": _shortened(one.reply.reply),
        "error": one.reply.error,
        "question": one.item.question,
        "fields": dict(one.item.fields),
        "picture": one.picture,
    }


def _shortened(text: str) -> str:
    if len(text) <= _HEAD + _TAIL:
        return text
    left_out = len(text) - _HEAD - _TAIL
    return f"{text[:_HEAD]} [... {left_out} characters ...] {text[-_TAIL:]}"
