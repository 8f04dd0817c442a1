"""RUN/reading.json: what the first reading of the data set came to, for all that come after it.

A broker that comes back must hand out the same samples in the same order, whatever has become of
the picture files meanwhile, and need not look at them again. The file is written before the
journal's first record, and counts as long as there is a journal. Without one it counts for a
broker whose configuration judges rows alike: a launcher that has read the data may leave it there.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.bad_rows import BadRow
from common.errors import ConfigError
from common.files import replace_json
from common.journal_file import has_journal
from common.reading import Reading

FILE = "reading.json"
_FORMAT = 1


@dataclass(frozen=True)
class Kept:
    """A reading without its samples."""

    dataset: str  # path of the file
    num_rows: int
    digest: str  # digest and settings are those of `common.reading.Reading`
    settings: str
    bad_rows: tuple[BadRow, ...]


def keep(folder: Path, reading: Reading) -> None:
    """Write a reading for a run that begins; a run that goes on has its own. Raises OSError."""
    if has_journal(folder):
        return
    kept = Kept(
        str(reading.path.absolute()),
        reading.num_rows,
        reading.digest,
        reading.settings,
        tuple(reading.bad_rows),
    )
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(folder / FILE, {"format": _FORMAT, **asdict(kept)}, is_synced=True)


def kept_reading(folder: Path | None, settings: str | None = None) -> Kept | None:
    """The run's reading in this folder. None means that it has not begun, or is older than that.

    Args:
        settings: with them a reading counts although no run has begun. None means none does.

    Raises:
        ConfigError: the file is damaged.
    """
    if folder is None:
        return None
    is_begun = has_journal(folder)
    if not is_begun and settings is None:
        return None
    kept = _read(folder)
    return kept if is_begun or (kept is not None and kept.settings == settings) else None


def _read(folder: Path) -> Kept | None:
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(folder, error) from error
    try:
        found: dict[str, Any] = json.loads(text)
        rows = tuple(map(_bad_row, found["bad_rows"]))
        names = ("dataset", "num_rows", "digest", "settings")
        return Kept(**{name: found[name] for name in names}, bad_rows=rows)
    except (ValueError, TypeError, LookupError) as error:
        raise _damaged(folder, error) from error


def _bad_row(fields: dict[str, Any]) -> BadRow:
    """One bad row; the version before this one wrote its fix as "mend"."""
    if "mend" in fields:
        fields["fix"] = fields.pop("mend")
    return BadRow(**fields)


def _damaged(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{folder / FILE} is damaged: {error}. Fix: put it back, or name a new run.folder"
    )
