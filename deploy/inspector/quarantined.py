"""The samples that no step trained, with the reason."""

from pathlib import Path
from typing import Any

from deploy.inspector.followed import FollowedRows


def quarantined(run: Path, limit: int, offset: int) -> dict[str, Any]:
    """The answer of `quarantined`: rows of RUN/quarantine.jsonl, as they were added."""
    rows = FollowedRows(run / "quarantine.jsonl").look().rows
    shown = [
        {
            "sample_id": row.get("sample_id"),
            "where": row.get("where"),
            "row": row.get("row"),
            "reason": str(row.get("reason", "")),
            "attempts": row.get("attempts") or None,  # None: it never came to one
        }
        for row in rows[offset : offset + limit]
    ]
    return {"total": len(rows), "rows": shown}
