#!/usr/bin/env python3
"""What does looking at a run cost: the one who looks, and the run?

    .venv/bin/python tests/bench/inspector.py [--trajectories 1000000] [--tokens 60] [--repeats 3]
        [--json FILE]

A made-up run of so many trajectories of about so many tokens is indexed by the inspector's own
worker, and served by `python -m deploy.inspect`, which is asked over HTTP as the page asks. Seconds
of a search for text are by the bytes of all texts, so the figures hold for that length alone:

    index_s       from the worker's start until all is indexed; index_mb: what that takes on disk,
                  worker_mb: the most that the worker had resident, mapped files included
    first_page_s  from the server's start, with the index on disk, until it has answered with the
                  first page; start_s of that passed before it listened
    filter_s      of the slowest of the filters, sorts and pages in `filters`, each the median of
                  --repeats
    resident_mb   the most that the serving process had resident, mapped files included

Then runs of the quickstart in pairs, --runs times (0: none): one with all that is kept for the
inspector, and with an inspector that is asked every five seconds; one with neither.

    overhead_share  median of the pairs' quotients of seconds a step, less 1; with its spread
    inspector_cpu_share  CPU seconds of the inspector and its worker over the seconds of its run
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from common.config.data import RunSection  # noqa: E402
from deploy.inspector.index_files import FOLDER  # noqa: E402
from deploy.inspector.query import SORTS  # noqa: E402
from tests.bench.figures import machine, spread  # noqa: E402
from tests.bench.made_trajectories import make_run  # noqa: E402

_SEED = 0
_POLL_S = 5.0  # as the page does
_WARM_UP = 3  # steps that do not count
_LIMIT_S = 900.0
_NO_SPANS = ("--run.spans_mib", "0") if "spans_mib" in RunSection.model_fields else ()
_MIB = 2**20


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="inspector-") as name:
        found = measure(Path(name) / "made", options)
        if options.runs:
            found |= overhead(Path(name), options)
    found["machine"] = machine()
    print(json.dumps(found, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--trajectories", type=int, default=1_000_000, help="default 1000000")
    parser.add_argument("--tokens", type=int, default=60, help="of a trajectory (default 60)")
    parser.add_argument("--repeats", type=int, default=3, help="of each question (default 3)")
    parser.add_argument("--runs", type=int, default=3, help="pairs of real runs (default 3)")
    parser.add_argument("--steps", type=int, default=20, help="of a real run (default 20)")
    parser.add_argument("--groups", type=int, default=32, help="of a step (default 32)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_args(argv)


# ---- the one who looks ---------------------------------------------------------------------------
def measure(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    rows = make_run(run, options.trajectories, _SEED, options.tokens)
    index_s, worker_mb = build_index(run)
    began = time.monotonic()
    with serving(run) as (process, address):
        start_s = time.monotonic() - began
        page = ask(address, {"limit": "50"})
        first_page_s = time.monotonic() - began
        assert page["total"] == rows and page["indexed"]["is_complete"], page["indexed"]
        times = {
            name: statistics.median(seconds_of(address, question) for _ in range(options.repeats))
            for name, question in questions(page, rows).items()
        }
        resident_mb = memory(process.pid, "VmHWM")
    index_bytes = sum(path.stat().st_size for path in (run / FOLDER).iterdir())
    return {
        "trajectories": rows,
        "tokens": options.tokens,
        "first_page_s": round(first_page_s, 3),
        "start_s": round(start_s, 3),
        "filter_s": round(max(times.values()), 3),
        "resident_mb": round(resident_mb, 1),
        "index_s": round(index_s, 1),
        "worker_mb": round(worker_mb, 1),
        "index_mb": round(index_bytes / _MIB, 1),
        "filters": {name: round(seconds, 3) for name, seconds in times.items()},
    }


def questions(page: dict[str, Any], rows: int) -> dict[str, dict[str, str]]:
    """Every sort in both directions, every filter, and some of them together."""
    steps = max(1, rows // 512)
    word = page["rows"][0]["text"].split()[-2]
    changed = f"{steps // 2},{steps}"
    found = {
        f"sort {sort} {order}": {"sort": sort, "order": order}
        for sort in SORTS
        for order in ("asc", "desc")
    }
    return found | {
        "last page": {"offset": str(rows - 50)},
        "a large page": {"limit": "1000"},
        "steps": {"step_from": str(steps // 10), "step_to": str(steps // 2), "sort": "length"},
        "sample": {"sample": page["rows"][0]["sample_id"]},
        "finish": {"finish": "length"},
        "staleness": {"staleness_min": "2", "sort": "drift"},
        "changed": {"changed": changed},
        "text, a word": {"text": word.upper()},
        "text, two letters": {"text": "zq"},
        "text, in all": {"text": "e", "sort": "gain", "order": "asc"},
        "text, in none": {"text": "nothing of that kind"},
        "all together": {
            "text": "e", "changed": changed, "staleness_min": "1", "finish": "stop",
            "sort": "drift_max",
        },
    }  # fmt: skip


def build_index(run: Path) -> tuple[float, float]:
    """Seconds of the worker's first round, and the most that it had resident, MiB."""
    folder = run / FOLDER
    folder.mkdir()
    command = [sys.executable, "-m", "deploy.inspector.indexing", str(run), str(folder)]
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == "done"
        return time.monotonic() - began, memory(process.pid, "VmHWM")


@contextlib.contextmanager
def serving(run: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The inspector of a run, and the address that it prints."""
    command = [sys.executable, "-m", "deploy.inspect", str(run), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate(timeout=30)


def ask(address: str, parameters: dict[str, str], name: str = "trajectories") -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}api/{name}?{urlencode(parameters)}", timeout=60) as got:
        found: dict[str, Any] = json.load(got)
    return found


def seconds_of(address: str, parameters: dict[str, str]) -> float:
    began = time.monotonic()
    ask(address, parameters)
    return time.monotonic() - began


def memory(pid: int, name: str) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


# ---- the run -------------------------------------------------------------------------------------
def overhead(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Pairs of runs, in an order that is turned round each time."""
    with_s, without_s, cpu_shares = [], [], []
    for number in range(options.runs):
        for is_inspected in (True, False) if number % 2 else (False, True):
            run = folder / f"run-{number}-{is_inspected}"
            cpu_share = launch(run, options, is_inspected)
            (with_s if is_inspected else without_s).append(seconds_a_step(run))
            if is_inspected:
                cpu_shares.append(cpu_share)
    shares = [a / b - 1 for a, b in zip(with_s, without_s, strict=True)]
    return {
        "overhead_share": round(statistics.median(shares), 4),
        "overhead_shares": spread(shares),
        "step_s_with": spread(with_s),
        "step_s_without": spread(without_s),
        "inspector_cpu_share": spread(cpu_shares),
    }


def launch(run: Path, options: argparse.Namespace, is_inspected: bool) -> float:
    """One whole run; returns CPU seconds of its inspector over its seconds."""
    words = ["--run.folder", str(run), "--data.heldout", "none", "--evaluation.every_steps", "0"]
    words += ["--learner.max_steps", str(options.steps)]
    words += ["--learner.groups_per_step", str(options.groups)]
    if not is_inspected:
        words += ["--run.trained_gib", "0", *_NO_SPANS]
    command = [str(ROOT / "deploy" / "launch_cluster.sh"), *words]
    log = run.with_suffix(".log")
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        ended = threading.Event()
        cpu_s: list[float] = []
        watcher = threading.Thread(target=look_at, args=(run, ended, cpu_s))
        if is_inspected:
            watcher.start()
        try:
            code = process.wait(_LIMIT_S)
        finally:
            process.terminate()
            ended.set()
            if is_inspected:
                watcher.join()
    assert code == 0, log.read_text()[-2000:]
    return sum(cpu_s) / (time.monotonic() - began)


def look_at(run: Path, ended: threading.Event, cpu_s: list[float]) -> None:
    """Do as a page does that is open all the time, from the run's first sign on."""
    while not (run / "config.toml").exists():
        if ended.wait(0.2):
            return
    with serving(run) as (process, address):
        while not ended.wait(_POLL_S):
            for name in ("runs", "curves", "histograms", "trajectories"):
                ask(address, {}, name)
        cpu_s.append(sum(map(cpu_seconds, tree_of(process.pid))))


def tree_of(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(int(child) for file in children for child in file.read_text().split())]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds_a_step(run: Path) -> float:
    """The median of a step with its wait for samples, without the first ones."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for line in lines if "learner/step_s" in (row := json.loads(line))]
    return statistics.median(
        row["learner/step_s"] + row["learner/wait_batch_s"] for row in rows[_WARM_UP:]
    )


if __name__ == "__main__":
    raise SystemExit(main())
