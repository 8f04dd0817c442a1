"""A whole run on a poisoned data set: real launcher, real processes, a tiny model."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
_SIDE = 96
_TIMEOUT_S = 600
_SHORT = (
    *("--data.heldout", "none", "--evaluation.every_steps", "0", "--learner.groups_per_step", "4"),
    *("--rollout.max_concurrent_groups", "8"),
)


@dataclass(frozen=True)
class Ended:
    """What a run has left."""

    code: int
    output: str
    summary: dict[str, Any]
    quarantine: list[dict[str, Any]]
    logs: str

    def reasons(self) -> dict[str, str]:
        return {entry["sample_id"]: entry["reason"] for entry in self.quarantine}


def good_row(folder: Path, number: int) -> dict[str, Any]:
    """A row that can be trained, and its picture."""
    rng = np.random.default_rng(number)
    path = folder / "images" / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)).save(path)
    return {
        "sample_id": f"good-{number}",
        "problem": "<image>Which digit is it?",
        "image": f"images/{number}.png",
        "image_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "width": _SIDE,
        "height": _SIDE,
        "box": [16, 16, 64, 64],
    }


def write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "train.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def run_on(train: Path, folder: Path, *arguments: str, has_faults: bool = False) -> Ended:
    """Launch a run and wait for its end.

    Args:
        has_faults: embedded engines do what `engine_kinds` says.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    if has_faults:
        paths.insert(0, str(ROOT / "tests" / "poison" / "hook"))
    command = [sys.executable, "-m", "deploy.launch", "--run.folder", str(folder)]
    done = subprocess.run(
        [*command, "--data.train", str(train), *_SHORT, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    logs = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("logs/*.log")))
    return Ended(
        done.returncode,
        done.stdout,
        _json(folder / "summary.json") or {},
        [json.loads(line) for line in _text(folder / "quarantine.jsonl").splitlines()],
        logs,
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path) -> Any:
    return json.loads(_text(path) or "null")
