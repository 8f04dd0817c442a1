"""RUN/quarantine.jsonl: one JSON object for each row or group that no step will train.

    {"sample_id": "s7", "where": "rollout", "row": null, "group_id": "0/12", "attempts": 3,
     "reason": "/generate: HTTP 500: ..."}

`where` is "reading" (a row that was left out; `row` is its number in the file), "rollout" or
"learner". The file is made from the ledger, so it survives every restart of the broker. It is only
appended to, unless a resumed learner has undone steps whose refusals it lists.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.ledger.quarantine import Quarantined
from common.data_health import RefusedRow
from common.files import replace_text

logger = logging.getLogger(__name__)


class QuarantineFile:
    """Writes quarantine.jsonl, and knows its lines.

    Args:
        refused: rows that were left out, for the head of the file.
    """

    def __init__(self, path: Path, refused: Sequence[RefusedRow]) -> None:
        self._path = path
        self._head = [
            _line(row.sample_id, "reading", row.row, None, 0, row.reason) for row in refused
        ]
        self._written = _lines_of(path)
        self._is_failing = False
        # The records that were looked at last, and how many there were then.
        self._seen: tuple[Sequence[Quarantined] | None, int] = (None, 0)

    def update(self, records: Sequence[Quarantined]) -> None:
        """Make the file say what `records` say. A disk that is full is no reason to end a run.

        Called with every reply of the broker: it looks no further where nothing was added.
        """
        if records is self._seen[0] and len(records) == self._seen[1]:
            return
        lines = self._head + [
            _line(r.sample_id, r.where, None, r.group_id, r.attempts, r.reason) for r in records
        ]
        try:
            if lines != self._written:
                self._write(lines)
        except OSError as error:
            if not self._is_failing:
                logger.warning("%s: %s; it is tried again", self._path, error.strerror)
            self._is_failing = True
            return
        self._written, self._is_failing = lines, False
        self._seen = (records, len(records))

    def _write(self, lines: list[str]) -> None:
        known = len(self._written)
        is_longer = lines[:known] == self._written and not self._is_failing
        if not is_longer:
            replace_text(self._path, "".join(lines))
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines[known:])


def _line(
    sample_id: str | None,
    where: str,
    row: int | None,
    group_id: str | None,
    attempts: int,
    reason: str,
) -> str:
    entry: dict[str, Any] = {
        "sample_id": sample_id,
        "where": where,
        "row": row,
        "group_id": group_id,
        "attempts": attempts,
        "reason": reason,
    }
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _lines_of(path: Path) -> list[str]:
    """The lines of the file, the last one perhaps torn: then all are written anew."""
    try:
        *whole, torn = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return []
    return [f"{line}\n" for line in whole] + ([torn] if torn else [])
