#!/usr/bin/env python3
"""Does it learn, and only because of the crop? Runs the quickstart over seeds and controls.

    tests/bench/effect.py --seeds 5 --controls [--json FILE] [--section.key value ...]

It is the study deploy/configs/studies/views.toml, of which it runs the published configuration and,
with --controls, the two controls, in a folder that is deleted at the end. `python -m deploy.study`
keeps the runs, goes on with them, and runs the other variants, too. Needs nothing but the standard
library, so that it can be called on a fresh checkout.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "deploy" / "configs" / "studies" / "views.toml"
PYTHON = ROOT / ".venv" / "bin" / "python"
CONTROLS = ("full", "random_crop")


def main(argv: list[str] | None = None) -> int:
    options, further = parse(argv)
    if not PYTHON.exists():
        subprocess.run([ROOT / "deploy" / "setup.sh"], check=True)
    variants = ["crop", *(CONTROLS if options.controls else ())]
    with tempfile.TemporaryDirectory(prefix="effect-") as folder:
        command = [
            *(str(PYTHON), "-m", "deploy.study", str(STUDY)),
            *("--out", folder, "--only", ",".join(variants)),
            *("--seeds", str(options.seeds), "--first-seed", str(options.first_seed)),
            *further,
        ]
        code = run(command)
        results = Path(folder, "study.json")
        if options.json and results.is_file():
            shutil.copyfile(results, options.json)
    return code


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=1, help="runs per variant (default 1)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--controls", action="store_true", help="run the two controls as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_known_args(argv)


def run(command: Sequence[str]) -> int:
    """Its exit code. A signal is for the study alone: it drains its run, and then this ends."""
    process = subprocess.Popen(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
