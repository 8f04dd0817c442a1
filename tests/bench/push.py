#!/usr/bin/env python3
"""What does a weight push cost, beside torch.distributed's bare broadcast of the same bytes?

    .venv/bin/python tests/bench/push.py [--sizes 1,16,256,2048] [--servers 1,2,4] [--json FILE]

The real Publisher in this process, a broker process, and for each rollout server two processes: the
real receiver with its clients, and an engine server with the embedded engine's update endpoints
over tensors of the wanted size, float32. All on loopback, with gloo, which is all that this engine
takes. Steady state: the group stands, checks are off. In turn, again and again:

1. ours: seconds from Publisher.push() until the broker has every server's acknowledgement
2. raw: seconds of dist.broadcast of the same buckets, from this process to as many processes, each
   into a buffer that it has, until the last one has the last bucket
3. ours beside training: as 1, while this process multiplies matrices for as long as the last such
   push took. Then it waits for the snapshot, changes the weights, and waits as the next push would
   for this one to be through: the stall is all that it has waited.

`vs_raw_broadcast` is raw seconds over ours, paired by repetition; 1 is as fast. `stall_share` is
the stall over the seconds of the push beside training. Both: at the largest size, the median over
the numbers of servers of medians. `pause_s`: the longest time that an engine did not generate.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file the packages `broker` and `rollout` would be benchmarks

from common.lifecycle import stop_with_parent  # noqa: E402
from tests.bench.figures import machine, spread  # noqa: E402

if TYPE_CHECKING:  # imported late at run time: every child runs this file, and not all need torch
    from tests.bench.pushing.case import Measured

GOALS = {"vs_raw_broadcast": ">= 0.90", "stall_share": "<= 0.10"}


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python "
          f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    from tests.bench.pushing.case import Case, measure

    print_header()
    by_case = []
    for mib in options.sizes:
        for servers in options.servers:
            measured = measure(Case(mib, servers, options.bucket_mib, options.repeats))
            by_case.append(figures(measured))
            print_row(by_case[-1])
            document = summarize(by_case, options)
            if options.json:
                options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print_phases(by_case)
    print_summary(document)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=numbers, default=[1, 16, 256, 2048], metavar="MIB,...",
                        help="of the weights (default 1,16,256,2048)")  # fmt: skip
    parser.add_argument("--servers", type=numbers, default=[1, 2, 4], metavar="N,...",
                        help="rollout servers (default 1,2,4)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=7, help="of each case (default 7)")
    parser.add_argument("--bucket-mib", type=int, default=256, help="a broadcast (default 256)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_args(argv)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


# ---- figures -------------------------------------------------------------------------------------
def figures(measured: "Measured") -> dict[str, Any]:
    """Everything about one case."""
    alone, beside = measured.alone, measured.beside_training
    ratios = [raw_s / push.seconds for raw_s, push in zip(measured.raw_s, alone, strict=True)]
    median_push_s = statistics.median(push.seconds for push in alone)
    return {
        "mib": measured.case.mib,
        "servers": measured.case.servers,
        "num_bytes": measured.num_bytes,
        "num_buckets": measured.num_buckets,
        "mb_per_s": measured.num_bytes / median_push_s / 1e6,
        "vs_raw_broadcast": spread(ratios),
        "stall_share": spread([push.stall_s / push.seconds for push in beside]),
        "push_s": spread([push.seconds for push in alone]),
        "raw_s": spread(measured.raw_s),
        "publish_s": spread([push.publish_s for push in alone]),
        "gather_s": spread([push.gather_s for push in alone]),
        "pause_s": spread([push.pause_s for push in alone]),
        "push_beside_training_s": spread([push.seconds for push in beside]),
        "stall_s": spread([push.stall_s for push in beside]),
        "phases_s": {
            name: statistics.median(push.phases_s()[name] for push in alone)
            for name in alone[0].phases_s()
        },
    }


def summarize(by_case: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    largest = [case for case in by_case if case["mib"] == max(c["mib"] for c in by_case)]
    return {
        **{key: statistics.median(case[key]["median"] for case in largest) for key in GOALS},
        "pause_s": {
            str(mib): {
                str(case["servers"]): case["pause_s"]["median"]
                for case in by_case
                if case["mib"] == mib
            }
            for mib in dict.fromkeys(case["mib"] for case in by_case)
        },
        "by_case": by_case,
        "bucket_mib": options.bucket_mib,
        "backend": "gloo",
        "machine": machine(),
    }  # fmt: skip


# ---- tables --------------------------------------------------------------------------------------
def print_header() -> None:
    titles = ("push s", "lowest", "highest", "raw s", "vs raw", "MB/s", "pause s", "stall share")
    print(f"{'MiB':>5}{'servers':>9}" + "".join(f"{title:>12}" for title in titles), flush=True)


def print_row(case: dict[str, Any]) -> None:
    push_s = case["push_s"]
    cells = [f"{push_s[key]:>12.4f}" for key in ("median", "min", "max")]
    cells += [
        f"{case['raw_s']['median']:>12.4f}",
        f"{case['vs_raw_broadcast']['median']:>12.2f}",
        f"{case['mb_per_s']:>12.0f}",
        f"{case['pause_s']['median']:>12.4f}",
        f"{case['stall_share']['median']:>12.3f}",
    ]
    print(f"{case['mib']:>5}{case['servers']:>9}" + "".join(cells), flush=True)


def print_phases(by_case: list[dict[str, Any]]) -> None:
    """Where a push spends its time, in ms; "gather" goes on beside the rest."""
    names = list(by_case[0]["phases_s"])
    print(f"\n{'ms':>5}{'':>9}" + "".join(f"{name:>12}" for name in (*names, "gather")))
    for case in by_case:
        values = [*case["phases_s"].values(), case["gather_s"]["median"]]
        cells = "".join(f"{value * 1000:>12.2f}" for value in values)
        print(f"{case['mib']:>5}{case['servers']:>9}{cells}")


def print_summary(document: dict[str, Any]) -> None:
    print()
    for key, goal in GOALS.items():
        print(f"{key:<20}{document[key]:>14.3f}   goal {goal}")


if __name__ == "__main__":
    stop_with_parent()
    sys.exit(main())
