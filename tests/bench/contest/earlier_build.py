"""The broker of an earlier commit under the same load: that commit's own benchmark, in a folder."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.contest.load import Latencies, Load, Measured

COMMIT = "5a52a04"
_ROOT = Path(__file__).resolve().parents[3]
_BENCH = Path("tests", "bench", "broker.py")
_TIMEOUT_S = 300.0


@contextmanager
def earlier_build(commit: str = COMMIT) -> Iterator[Path]:
    """A temporary folder with the commit's files.

    Raises:
        CalledProcessError: this is no checkout that has the commit.
    """
    with tempfile.TemporaryDirectory(prefix=f"bench-{commit}-") as folder:
        archive = subprocess.run(
            ["git", "archive", commit], cwd=_ROOT, stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def measure_earlier(build: Path, load: Load) -> Measured:
    """One repetition of the durable broker; only its rate is taken over."""
    written = build / "measured.json"
    command = [sys.executable, str(build / _BENCH), "--systems", "broker", "--groups", "0"]
    command += ["--sizes", str(load.trajectory_bytes // 1024), "--repetitions", "1"]
    command += ["--seconds", str(load.seconds), "--json", str(written)]
    environment = {**os.environ, "PYTHONPATH": str(build)}
    subprocess.run(
        command,
        cwd=build,
        env=environment,
        stdout=subprocess.DEVNULL,
        timeout=_TIMEOUT_S,
        check=True,
    )
    rates = json.loads(written.read_text(encoding="utf-8"))["trajectories_per_s"]
    (by_system,) = rates.values()
    return Measured(by_system["broker"]["all"][0], Latencies([], []), [])
