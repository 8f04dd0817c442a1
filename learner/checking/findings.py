"""What a check has found: written line by line, so that what was found outlives a crash."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from common.files import whole_lines

Outcome = Literal["ok", "failed", "skipped"]
Figure = float | int | str | bool | None


@dataclass(frozen=True)
class Finding:
    """One check.

    Args:
        part: that it belongs to.
        name: what was checked.
        figures: by name with its unit, such as `forward_s`.
        remark: why it failed or was left out, or what a figure means.
    """

    part: str
    name: str
    outcome: Outcome
    figures: Mapping[str, Figure] = field(default_factory=dict)
    remark: str = ""


def outcome_of(is_good: bool) -> Outcome:
    return "ok" if is_good else "failed"


def append(path: Path, finding: Finding) -> None:
    """Add a line to the file. Raises OSError."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(finding)) + "\n")


def read(path: Path) -> list[Finding]:
    """All whole lines; none if there is no file. Raises OSError."""
    return [Finding(**json.loads(line)) for line in whole_lines(path)]
