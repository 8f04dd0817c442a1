#!/usr/bin/env python3
"""How much of an engine's speed is left when it generates for our rollout?

    .venv/bin/python tests/bench/rollout.py [--engine embedded|sglang] [--groups N] [--json FILE]

One engine server serves both sides in turn, again and again:

1. ours: a broker process, a rollout process with a real member attached to the engine, and a
   learner here. Weights are pushed before; then the member may lease, and the clock runs until the
   learner has the batch. All groups are one step, so that only the engine's slots limit them.
2. alone: a plain client in a process of its own sends the same requests, encoded before the clock
   runs, as many at once as ours has groups at once.

The samples are the quickstart's, one group each. The token that ends a response is banned, so that
every response has full length and both sides get exactly as many tokens. The prefix cache is empty
whenever the clock starts. `vs_sglang_alone` (`vs_engine_alone` with the embedded engine) is ours
over alone in tokens a second: the median of the ratios, paired by repetition.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file the packages `broker` and `rollout` would be benchmarks

from common.lifecycle import stop_with_parent  # noqa: E402
from tests.bench.figures import machine, spread  # noqa: E402

if TYPE_CHECKING:  # imported late at run time: every child runs this file, and not all need torch
    from tests.bench.generating.contest import Generated

KEYS = {"sglang": "vs_sglang_alone", "embedded": "vs_engine_alone"}
CHECKPOINT = "deploy/quickstart/checkpoint"
GOAL = ">= 0.97"


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python "
          f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-rollout-") as folder:
        ours, alone = run(options, Path(folder))
    document = summarize(ours, alone, options)
    print_summary(document, options)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=KEYS, default="sglang", help="(default sglang)")
    parser.add_argument("--model", type=Path, default=ROOT / CHECKPOINT, metavar="FOLDER",
                        help=f"(default {CHECKPOINT})")  # fmt: skip
    parser.add_argument("--groups", type=int, default=64, help="a repetition (default 64)")
    parser.add_argument("--concurrent", type=int, default=16, help="groups at once (default 16)")
    parser.add_argument("--n", type=int, default=8, help="responses a group (default 8)")
    parser.add_argument("--tokens", type=int, default=64, help="of a response (default 64)")
    parser.add_argument("--repeats", type=int, default=5, help="of each side (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_args(argv)


def run(options: argparse.Namespace, folder: Path) -> tuple[list["Generated"], list["Generated"]]:
    from tests.bench.generating.contest import measure_alone, measure_ours, weights_of
    from tests.bench.generating.work import config_of, requests_of, write_samples
    from tests.rollout.support import running_server

    train = write_samples(folder / "data", options.groups)
    config = config_of(
        options.engine, options.model, train,
        options.groups, options.concurrent, options.n, options.tokens,
    )  # fmt: skip
    weights, requests = weights_of(config), requests_of(config)
    ours, alone = [], []
    with running_server(config, folder / "engine.log") as url:
        measure_alone(requests, options.concurrent, url)  # an engine's first requests are slow
        for number in range(options.repeats):
            ours.append(measure_ours(config, url, weights))
            alone.append(measure_alone(requests, options.concurrent, url))
            print(f"repetition {number + 1}: ours {ours[-1].tokens_per_s:.0f}, alone "
                  f"{alone[-1].tokens_per_s:.0f} tokens/s", flush=True)  # fmt: skip
    return ours, alone


# ---- figures -------------------------------------------------------------------------------------
def summarize(
    ours: list["Generated"], alone: list["Generated"], options: argparse.Namespace
) -> dict[str, Any]:
    pairs = zip(ours, alone, strict=True)
    ratios = spread([us.tokens_per_s / them.tokens_per_s for us, them in pairs])
    return {
        KEYS[options.engine]: ratios["median"],
        "ratios": ratios,
        "tokens_per_s": {"ours": spread([run.tokens_per_s for run in ours]),
                         "alone": spread([run.tokens_per_s for run in alone])},
        "seconds": {"ours": spread([run.seconds for run in ours]),
                    "alone": spread([run.seconds for run in alone])},
        "client_cpu_s": {"ours": spread([run.cpu_s for run in ours]),
                         "alone": spread([run.cpu_s for run in alone])},
        "tokens": sorted({run.tokens for run in (*ours, *alone)}),
        "engine": options.engine,
        "load": {"groups": options.groups, "concurrent": options.concurrent, "n": options.n,
                 "tokens": options.tokens},
        "machine": machine(),
    }  # fmt: skip


def print_summary(document: dict[str, Any], options: argparse.Namespace) -> None:
    print(f"\n{'':<8}{'tokens/s':>12}{'lowest':>12}{'highest':>12}{'client CPU s':>16}")
    for side in ("ours", "alone"):
        found = document["tokens_per_s"][side]
        cells = "".join(f"{found[key]:>12.0f}" for key in ("median", "min", "max"))
        print(f"{side:<8}{cells}{document['client_cpu_s'][side]['median']:>16.2f}")
    key = KEYS[options.engine]
    found = document["ratios"]
    print(f"\n{key:<20}{found['median']:>10.3f}   {found['min']:.3f} to {found['max']:.3f}"
          f"   goal {GOAL}")  # fmt: skip


if __name__ == "__main__":
    stop_with_parent()
    sys.exit(main())
