"""The benchmark of rollout runs and writes what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("rollout.py")
GROUPS, N, TOKENS = 4, 2, 5


def test_rollout_bench_writes_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, str(PROGRAM), "--engine", "embedded", "--json", str(figures)),
            *("--groups", str(GROUPS), "--concurrent", "2", "--repeats", "1"),
            *("--n", str(N), "--tokens", str(TOKENS)),
        ],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert found["vs_engine_alone"] > 0
    assert found["tokens"] == [GROUPS * N * TOKENS]  # all responses have full length, on both sides
    for side in ("ours", "alone"):
        assert found["tokens_per_s"][side]["median"] > 0
        assert found["client_cpu_s"][side]["median"] > 0
