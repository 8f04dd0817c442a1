"""Where the journal of a run lies in its folder; `broker.storage` writes and reads it."""

from pathlib import Path

FOLDER = "journal"
JOURNAL = "journal.log"


def has_journal(run: Path) -> bool:
    """Whether the run in this folder has begun."""
    journal = run / FOLDER / JOURNAL
    return journal.is_file() and journal.stat().st_size > 0
