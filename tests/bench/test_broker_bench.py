"""The benchmark of the broker runs and writes what it promises; its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("broker.py")


def test_broker_bench_writes_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--smoke", "--json", str(figures)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert found["is_smoke"]
    assert found["vs_ray_queue"] is None and found["vs_redis"] is None
    assert found["cost_growth"] > 0 and found["peak_bytes"] > 0
    assert found["trajectories_per_s"]["4"]["broker"]["median"] > 0
    assert found["latencies_ms"]["4"]["broker"]["take_p99"] > 0
    assert [cost["groups"] for cost in found["crowd"]["costs"]] == [5, 55, 300]
