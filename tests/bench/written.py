"""Runs a benchmark as a person does, small, for the tests of what it writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHES = Path(__file__).parent
_LIMIT_S = 280  # beside other tests; alone it takes a third


def figures_of(bench: str, folder: Path, options: str) -> dict[str, Any]:
    """What `tests/bench/BENCH.py --json FILE OPTIONS` wrote."""
    figures = folder / "figures.json"
    command = [sys.executable, str(BENCHES / f"{bench}.py"), "--json", str(figures)]
    done = subprocess.run(
        [*command, *options.split()], capture_output=True, text=True, timeout=_LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(figures.read_text())
    return found
