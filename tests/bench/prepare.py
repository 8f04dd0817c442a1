#!/usr/bin/env python3
"""What does preparing a dataset cost beyond decoding and hashing its pictures, and in what memory?

    .venv/bin/python tests/bench/prepare.py [--pictures N] [--rows 10000,100000] [--json FILE]

Time, taken in turn, again and again, each in a process of its own, with the start of its pool:

1. ours: `common.prepare custom` over JSONL and JPEG files of about a megapixel: rows are read,
   columns and boxes are recognised (headers of all pictures), pictures decoded, hashed, linked,
   checked and written to Parquet
2. bare: the same files read, decoded to RGB and hashed, by processes on all cores
3. threads: the same as bare by threads, for the choice between the two

Memory: the peak resident set (VmHWM) of the command and of its largest worker, for growing numbers
of rows with small pictures.

`share_of_bare` is bare over ours in seconds of the clock, `cpu_share` in seconds of CPU, which
other processes on the same cores disturb less: medians of pairs.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file the packages `broker` and `rollout` would be benchmarks

from common.pictures import decode_picture  # noqa: E402
from common.prepare.__main__ import main as prepare  # noqa: E402
from tests.bench.figures import machine, spread  # noqa: E402
from tests.picture_files import scene  # noqa: E402

GOALS = {"share_of_bare": ">= 0.9"}
SIDES = ("ours", "bare", "threads")
SIZE, SMALL = (1184, 888), (64, 48)
FILES_A_TASK = 8
NUM_SMALL = 500  # files; rows share them
CORES = len(os.sched_getaffinity(0))


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.child:
        print(json.dumps(CHILDREN[options.child](Path(options.folder))))
        return 0
    with tempfile.TemporaryDirectory(prefix="prepare-bench-") as name:
        folder = Path(name)
        found = {
            "machine": machine(),
            "goals": GOALS,
            "pictures": options.pictures,
            "size": SIZE,
            **times(folder / "photographs", options.pictures, options.repeats),
            "memory": {str(n): memory(folder / f"rows-{n}", n) for n in options.rows},
        }
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=_numbers, default=[10_000, 100_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


# ---- material ------------------------------------------------------------------------------------
def write_rows(folder: Path, num_rows: int, num_files: int, size: tuple[int, int]) -> None:
    """Rows with boxes all over their pictures."""
    folder.mkdir()
    for number in range(num_files):
        scene(*size, seed=number).save(folder / f"{number}.jpg", "JPEG", quality=90)
    width, height = size[0] // 8, size[1] // 8
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(num_rows):
            x, y = width * (number % 8), height * (number // 8 % 8)
            row = {
                "image": f"{number % num_files}.jpg",
                "question": f"What is at place {number}?",
                "bbox": [x, y, x + width, y + height],
                "answer": str(number),
                "source": "bench",
            }
            file.write(json.dumps(row) + "\n")


# ---- time ----------------------------------------------------------------------------------------
def times(folder: Path, num_pictures: int, repeats: int) -> dict[str, Any]:
    write_rows(folder, num_pictures, num_pictures, SIZE)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    cpu: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
            wall_s, cpu_s = child(side, folder)
            seconds[side].append(wall_s)
            cpu[side].append(cpu_s)
    shares, cpu_shares = (
        [bare / ours for bare, ours in zip(found["bare"], found["ours"], strict=True)]
        for found in (seconds, cpu)
    )
    return {
        "seconds": {side: spread(values) for side, values in seconds.items()},
        "cpu_seconds": {side: spread(values) for side, values in cpu.items()},
        "share_of_bare": statistics.median(shares),
        "shares": spread(shares),
        "cpu_share": statistics.median(cpu_shares),
        "pictures_per_s": num_pictures / statistics.median(seconds["ours"]),
    }


def child(kind: str, folder: Path) -> Any:
    command = [sys.executable, __file__, "--child", kind, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class Clock:
    """Seconds since it was made: of the clock, and of CPU in this process and those that ended."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), sum(os.times()[:4])

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, sum(os.times()[:4]) - self._cpu


def ours(folder: Path) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        clock = Clock()
        _prepare(folder, Path(out))
        return clock.read()


def _prepare(folder: Path, out: Path) -> None:
    rows = str(folder / "rows.jsonl")
    prepare(["custom", "--input", rows, "--out", str(out / "set"), "--box-form", "xyxy",
             *(("--box-units", "pixels") if folder.name.startswith("rows") else ())])  # fmt: skip


def bare(folder: Path) -> tuple[float, float]:
    return _bare(folder, ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")))


def threads(folder: Path) -> tuple[float, float]:
    return _bare(folder, ThreadPoolExecutor(CORES))


def _bare(folder: Path, pool: Executor) -> tuple[float, float]:
    files = sorted(folder.glob("*.jpg"))
    tasks = [files[n : n + FILES_A_TASK] for n in range(0, len(files), FILES_A_TASK)]
    clock = Clock()
    with pool:
        assert sum(pool.map(decode_and_hash, tasks)) == len(files)
    return clock.read()


def decode_and_hash(files: Sequence[Path]) -> int:
    for path in files:
        content = path.read_bytes()
        decode_picture(content, path.name)
        hashlib.sha256(content).hexdigest()
    return len(files)


# ---- memory --------------------------------------------------------------------------------------
def memory(folder: Path, num_rows: int) -> dict[str, float]:
    write_rows(folder, num_rows, min(NUM_SMALL, num_rows), SMALL)
    found: dict[str, float] = child("peak", folder)
    return found


def peak(folder: Path) -> dict[str, float]:
    """The peak of this process, and of the largest that it starts."""
    over, largest = Event(), [0.0]

    def watch() -> None:
        while not over.wait(0.2):
            largest[0] = max(largest[0], *map(_peak_mib, _children()), 0.0)

    watcher = Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        _prepare(folder, Path(out))
        seconds = time.perf_counter() - begin
    over.set()
    watcher.join()
    return {"command_mib": _peak_mib("self"), "worker_mib": largest[0], "seconds": seconds}


def _children() -> list[str]:
    tasks = Path("/proc/self/task").iterdir()
    return [pid for task in tasks for pid in (task / "children").read_text().split()]


def _peak_mib(pid: str) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    lines = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return next((int(line.split()[1]) / 1024 for line in lines), 0.0)


CHILDREN: dict[str, Callable[[Path], Any]] = {
    "ours": ours, "bare": bare, "threads": threads, "peak": peak,
}  # fmt: skip


def show(found: dict[str, Any]) -> None:
    for side, seconds in found["seconds"].items():
        lowest, highest = seconds["min"], seconds["max"]
        print(f"{side:8} {seconds['median']:6.2f} s ({lowest:.2f} to {highest:.2f})")
    lowest, highest = found["shares"]["min"], found["shares"]["max"]
    print(f"share of bare {found['share_of_bare']:.2f} ({lowest:.2f} to {highest:.2f}), "
          f"of its CPU time {found['cpu_share']:.2f}, {found['pictures_per_s']:.0f} pictures/s"
          )  # fmt: skip
    for rows, mib in found["memory"].items():
        print(f"{rows} rows: command {mib['command_mib']:.0f} MiB, worker {mib['worker_mib']:.0f} "
              f"MiB, {mib['seconds']:.0f} s")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
