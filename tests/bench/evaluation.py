#!/usr/bin/env python3
"""What do the measurements of a run cost, now that rollout servers make them?

    .venv/bin/python tests/bench/evaluation.py [--runs 3] [--json FILE] [--SECTION.KEY VALUE ...]

Whole quickstarts, in turn: this build, and one whose learner answered the held-out samples itself
(commit 5a52a04, checked out into a folder of its own, with the same environment and data).

`quickstart_speedup`: seconds of the other build's run over ours, by the broker's clock; the median
of pairs. `learner_share`: share of the run that the learner stood still or worked for measurements,
the wait for the last one included, when nothing is left to train; `learner_share_training`: without
that one. `learner_share_then`: the same of the other build, which worked for all of it.
`accuracy`: of the last weights on full images, run by run; one run's is uncertain by
`accuracy_noise` (binomial, one standard deviation of a difference).
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file the packages `broker` and `rollout` would be benchmarks

from common.figure_rows import read_rows  # noqa: E402
from tests.bench.figures import machine, spread  # noqa: E402

COMMIT = "5a52a04"
GOALS = {"learner_share": "<= 0.05", "quickstart_speedup": ">= 1.35"}
RUN_TIMEOUT_S = 30 * 60


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.runs} runs each\n")
    print(f"{'run':<12}{'s':>8}{'measuring s':>13}{'share':>8}{'full before':>13}{'after':>8}")
    runs: dict[str, list[dict[str, Any]]] = {"then": [], "now": []}
    with tempfile.TemporaryDirectory(prefix="evaluation-") as name:
        folder = Path(name)
        builds = {"then": checked_out(folder / "then"), "now": ROOT}
        for number in range(options.runs):
            for which, build in builds.items():
                found = quickstart(build, folder / f"{which}-{number}", options.arguments)
                runs[which].append(found)
                print_row(f"{which} {number}", found)
    document = {**figures(runs["then"], runs["now"]), "goals": GOALS, "runs": runs,
                "machine": machine()}  # fmt: skip
    print(f"\n{document['quickstart_speedup']['median']:.2f} times as fast; measurements take "
          f"{document['learner_share']['median']:.1%} of the learner's run")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=3, help="of each build (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    options, options.arguments = parser.parse_known_args(argv)
    return options


def checked_out(folder: Path) -> Path:
    """The other build, beside the environment and the data of this one."""
    for command in (
        ("git", "clone", "--quiet", "--shared", str(ROOT), str(folder)),
        ("git", "-C", str(folder), "checkout", "--quiet", COMMIT),
    ):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    if (ROOT / ".cache/quickstart").is_dir():
        shutil.copytree((ROOT / ".cache/quickstart").resolve(), folder / ".cache/quickstart")
    return folder


def quickstart(build: Path, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """One whole run; raises RuntimeError with the launcher's last words when it fails."""
    config = build / "deploy/configs/quickstart.toml"
    command = [str(build / ".venv/bin/python"), "-m", "deploy.launch", "--config", str(config)]
    done = subprocess.run(
        [*command, "--run.folder", str(folder), *arguments],
        cwd=build,
        env={**os.environ, "PYTHONPATH": str(build)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} in {build} failed:\n{done.stdout[-3000:]}")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = [row for row in read_rows(folder / "metrics.jsonl") if "evaluation/stall_s" in row]
    by_step = {str(row["step"]): row["evaluation/stall_s"] for row in rows}
    return {
        "seconds": summary["seconds"],
        "measuring_s": sum(by_step.values()),
        "last_s": by_step[str(max(row["step"] for row in rows))],
        "measuring_s_by_step": by_step,
        "full_accuracy_before": summary["full_accuracy_before"],
        "full_accuracy_after": summary["full_accuracy_after"],
        "samples": summary["heldout_samples"],
    }


def figures(then: list[dict[str, Any]], now: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = list(zip(then, now, strict=True))
    return {
        "quickstart_speedup": spread([a["seconds"] / b["seconds"] for a, b in pairs]),
        "learner_share": spread([run["measuring_s"] / run["seconds"] for run in now]),
        "learner_share_training": spread(
            [(run["measuring_s"] - run["last_s"]) / run["seconds"] for run in now]
        ),
        "learner_share_then": spread([run["measuring_s"] / run["seconds"] for run in then]),
        "accuracy": {
            name: [run["full_accuracy_after"] for run in runs]
            for name, runs in (("then", then), ("now", now))
        },
        "accuracy_noise": noise(then[0]["full_accuracy_after"], then[0]["samples"]),
    }


def noise(accuracy: float, samples: int) -> float:
    """Standard deviation of the difference of two shares of so many samples."""
    return math.sqrt(2 * accuracy * (1 - accuracy) / samples)


def print_row(name: str, run: dict[str, Any]) -> None:
    share = run["measuring_s"] / run["seconds"]
    print(
        f"{name:<12}{run['seconds']:>8.1f}{run['measuring_s']:>13.1f}{share:>8.1%}"
        f"{run['full_accuracy_before']:>13.3f}{run['full_accuracy_after']:>8.3f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
