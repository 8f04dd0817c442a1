"""What an exported page holds beside its code: RUN/report.html is one."""

import json
import re
from pathlib import Path
from typing import Any


def recorded(page: Path) -> dict[str, Any]:
    """Its answers by question, its pictures, and its note."""
    text = page.read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id="recorded">(.*?)</script>', text)
    found: dict[str, Any] = json.loads(block)
    return found


def run_of(page: Path) -> dict[str, Any]:
    """The first run's entry in its answer to `runs`."""
    entry: dict[str, Any] = recorded(page)["answers"]["runs"]["runs"][0]
    return entry
