#!/usr/bin/env python3
"""Does it learn, and only because of the crop? Runs the quickstart over seeds and controls.

    tests/bench/effect.py --seeds 5 --controls [--json FILE]

Every run is the whole system, started by deploy/launch_cluster.sh, one after the other. Needs
nothing but the standard library, so that it can be called on a fresh checkout.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "teacher sees the crop": "quickstart.toml",
    "control: teacher sees the full image": "quickstart_teacher_full.toml",
    "control: teacher sees a random crop": "quickstart_random_crop.toml",
}
COLUMNS = ("full before", "full after", "crop before", "crop after", "gap closed", "steps", "s")
RUN_TIMEOUT_S = 20 * 60


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    names = list(CONFIGS) if options.controls else list(CONFIGS)[:1]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    print_header()
    for seed in seeds:
        for name in names:
            summary = run(CONFIGS[name], seed, options.launcher_arguments)
            results[name].append({"seed": seed, **summary})
            print_row(f"{name}, seed {seed}", figures(summary))
            if options.json:
                write_json(options.json, results)
    for name in names:
        print_spread(name, results[name])
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="runs per variant (default 1)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--controls", action="store_true", help="run the two controls as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    options, options.launcher_arguments = parser.parse_known_args(argv)
    return options


def run(config: str, seed: int, launcher_arguments: list[str]) -> dict[str, Any]:
    """The summary of one whole run; raises RuntimeError with the log's end when it fails."""
    with tempfile.TemporaryDirectory(prefix="effect-") as folder:
        command = [
            str(ROOT / "deploy" / "launch_cluster.sh"),
            *("--config", str(ROOT / "deploy" / "configs" / config)),
            *("--run.seed", str(seed), "--run.folder", f"{folder}/run"),
            *launcher_arguments,
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
        summary: dict[str, Any] = json.loads(Path(folder, "run", "summary.json").read_text())
        return summary


def figures(summary: dict[str, Any]) -> list[float]:
    keys = (
        "full_accuracy_before",
        "full_accuracy_after",
        "crop_accuracy_before",
        "crop_accuracy_after",
        "gap_closed",
        "steps",
        "seconds",
    )
    return [float(summary[key]) for key in keys]


def print_header() -> None:
    print(f"{'':<52}" + "".join(f"{column:>12}" for column in COLUMNS), flush=True)


def print_row(name: str, values: Iterable[float]) -> None:
    cells = [f"{value:>12.3f}" for value in values]
    cells[-2:] = [f"{float(cell):>12.0f}" for cell in cells[-2:]]
    print(f"{name:<52}" + "".join(cells), flush=True)


def print_spread(name: str, summaries: list[dict[str, Any]]) -> None:
    columns = list(zip(*map(figures, summaries), strict=True))
    print()
    print_row(f"{name}: median of {len(summaries)}", map(statistics.median, columns))
    print_row(f"{name}: lowest", map(min, columns))
    print_row(f"{name}: highest", map(max, columns))


def write_json(path: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    closed = {name: [run["gap_closed"] for run in runs] for name, runs in results.items() if runs}
    document = {
        "runs": results,
        "gap_closed": {
            name: {"median": statistics.median(v), "min": min(v), "max": max(v)}
            for name, v in closed.items()
        },
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
