#!/usr/bin/env python3
"""How fast is the broker, beside Redis streams, a Ray queue and its earlier self; does it stay so?

    .venv/bin/python tests/bench/broker.py [--json FILE] [--smoke]

1. Contest. Every system has one server process, one producing process (a rollout worker: 16 groups
   of 8 trajectories in flight) and one consuming process (a learner: batches of 16 groups, each
   acknowledged), on loopback. Repetitions are interleaved, each on a fresh server.
   - The broker does all it does in a run: leases, validation on arrival, staleness, weight updates
     that free slots, a commit (fsync) a second. Durable: fsync = interval. Memory: no run folder.
     Keys: durable, and every connection encrypted (CURVE), as the launcher's runs have it.
   - Today: the broker of commit 5a52a04 (`git archive`), with its own benchmark's code.
   - Redis: one stream entry a trajectory, a pipeline a group, a consumer group, XACK a batch,
     appendfsync everysec. Ray queue: one item a trajectory; with its batch calls, a call a group
     and a call a batch ("ray"), and with put and get of single items ("ray items").
   - Both get ready-made bytes, which nobody encodes, checks or decodes, and know no leases. That
     favours them.
   Rates are what the consumer has released a second while all run at once; latencies are of single
   calls with nothing else going on: a submit until it is acknowledged, a take until the whole batch
   is in the learner's process.
2. Crowd. 1,000 simulated rollout servers and a learner around the real service and durable store,
   in one process: CPU time a group after 1 %, 10 % and 100 % of 10^5 groups, and memory.

`vs_ray_queue` (batch calls), `vs_ray_queue_items`, `vs_redis` and `vs_today`: durable broker over
peer: the median over sizes of the medians of ratios within one repetition. `vs_today_4k`,
`vs_redis_4k` and `vs_ray_batch_4k` are the medians at 4 KB.
`cost_growth` is the CPU time a group after 10^5 groups over that after 10^3.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file the package `broker` would be this file

from common.lifecycle import stop_with_parent  # noqa: E402
from tests.bench.contest.children import in_child  # noqa: E402
from tests.bench.contest.crowd import CrowdResult, measure_crowd  # noqa: E402
from tests.bench.contest.earlier_build import earlier_build, measure_earlier  # noqa: E402
from tests.bench.contest.load import Load, Measured, System, measure  # noqa: E402
from tests.bench.contest.our_broker import OurBroker  # noqa: E402
from tests.bench.contest.ray_queue import RayQueue  # noqa: E402
from tests.bench.contest.redis_streams import RedisStreams  # noqa: E402

OURS = "broker"
SYSTEMS: dict[str, System] = {
    OURS: OurBroker(is_durable=True),
    "keys": OurBroker(is_durable=True, has_keys=True),
    "memory": OurBroker(is_durable=False),
    "redis": RedisStreams(),
    "ray": RayQueue(is_batched=True),
    "ray items": RayQueue(is_batched=False),
}
TODAY = "today"
PEERS = {
    "vs_today": TODAY,
    "vs_ray_queue": "ray",
    "vs_ray_queue_items": "ray items",
    "vs_redis": "redis",
}
AT_4_KB = {
    "vs_today_4k": "vs_today",
    "vs_redis_4k": "vs_redis",
    "vs_ray_batch_4k": "vs_ray_queue",
}
GOALS = {
    "vs_today_4k": ">= 4",
    "vs_redis_4k": ">= 1",
    "vs_ray_batch_4k": ">= 2",
    "cost_growth": "about 1",
}
Measure = Callable[[Load], Measured]
Results = dict[int, dict[str, list[Measured]]]  # by KB of a trajectory and system


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python "
          f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    with ExitStack() as stack:
        measures = available(options.systems)
        if TODAY in options.systems:
            build = stack.enter_context(earlier_build())
            measures[TODAY] = partial(measure_earlier, build)
        results = run_contest(measures, options)
    crowd = run_crowd(options) if options.groups else None
    document = summarize(results, crowd, options)
    print_rates(results)
    print_latencies(document["latencies_ms"])
    print_summary(document)
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64], metavar="KB",
                        help="of a trajectory, 8 bytes a token (default 4 16 64)")  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=3, help="of the contest (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each (default 3)")
    parser.add_argument("--systems", nargs="*", choices=[*SYSTEMS, TODAY],
                        default=[*SYSTEMS, TODAY])  # fmt: skip
    parser.add_argument("--groups", type=int, default=100_000,
                        help="of the crowd; 0: no crowd (default 100000)")  # fmt: skip
    parser.add_argument("--servers", type=int, default=1000, help="of the crowd (default 1000)")
    parser.add_argument("--smoke", action="store_true", help="see that it runs: some seconds, "
                        "no Redis, no Ray; its figures mean nothing")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    options = parser.parse_args(argv)
    if options.smoke:
        options.sizes, options.repetitions, options.seconds = [4], 1, 0.3
        options.systems = [OURS]
        options.servers, options.groups = 20, 300
    return options


def available(names: Sequence[str]) -> dict[str, Measure]:
    """How to measure the systems asked for; says what is missing for the others."""
    found: dict[str, Measure] = {}
    for name in (name for name in SYSTEMS if name in names):
        missing = SYSTEMS[name].missing()
        if missing is None:
            found[name] = partial(measure, SYSTEMS[name])
        else:
            print(f"{name} is left out: {missing}\n")
    return found


def run_contest(measures: dict[str, Measure], options: argparse.Namespace) -> Results:
    results: Results = {kb: {name: [] for name in measures} for kb in options.sizes}
    for kb in options.sizes:
        load = load_of(kb, options)
        for repetition in range(options.repetitions):
            for name, measure_one in measures.items():
                measured = measure_one(load)
                results[kb][name].append(measured)
                rate = f"{measured.trajectories_per_s:>10.0f} trajectories/s"
                print(f"{kb:>3} KB, repetition {repetition + 1}, {name:<10}{rate}", flush=True)
    return results


def load_of(kb: int, options: argparse.Namespace) -> Load:
    rounds = 5 if options.smoke else 40
    return Load(kb * 1024, options.seconds, warm_up_s=options.seconds / 4, quiet_rounds=rounds)


def run_crowd(options: argparse.Namespace) -> CrowdResult:
    print(f"crowd: {options.servers} servers, {options.groups} groups ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-crowd-") as folder:
        result: CrowdResult = in_child(measure_crowd, Path(folder), options.servers, options.groups)
        return result


# ---- figures -------------------------------------------------------------------------------------
def summarize(
    results: Results, crowd: CrowdResult | None, options: argparse.Namespace
) -> dict[str, Any]:
    ratios = {key: ratios_to(results, peer) for key, peer in PEERS.items()}
    return {
        **{key: over_sizes(by_kb) for key, by_kb in ratios.items()},
        **{key: ratios[of].get(4, {}).get("median") for key, of in AT_4_KB.items()},
        "cost_growth": crowd and crowd.cost_growth,
        "peak_bytes": crowd and crowd.peak_bytes,
        "ratios_by_kb": ratios,
        "trajectories_per_s": {
            kb: {name: spread(rates(runs)) for name, runs in by_name.items()}
            for kb, by_name in results.items()
        },
        "latencies_ms": {
            kb: {name: latencies_ms(runs) for name, runs in by_name.items() if name != TODAY}
            for kb, by_name in results.items()
        },
        "crowd": crowd and {
            "servers": options.servers,
            "costs": [cost._asdict() for cost in crowd.costs],
        },
        "is_smoke": options.smoke,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(),
                    "system": platform.platform()},
    }  # fmt: skip


def ratios_to(results: Results, peer: str) -> dict[int, dict[str, Any]]:
    """Durable broker over the peer, by size, paired by repetition."""
    found = {}
    for kb, by_name in results.items():
        pairs = zip(rates(by_name.get(OURS, [])), rates(by_name.get(peer, [])), strict=False)
        if quotients := [ours / theirs for ours, theirs in pairs]:
            found[kb] = spread(quotients)
    return found


def over_sizes(ratios: dict[int, dict[str, Any]]) -> float | None:
    return statistics.median(r["median"] for r in ratios.values()) if ratios else None


def rates(runs: list[Measured]) -> list[float]:
    return [run.trajectories_per_s for run in runs]


def spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values),
            "all": values}  # fmt: skip


def latencies_ms(runs: list[Measured]) -> dict[str, float]:
    """Over all repetitions."""
    found = {}
    for call, values in (
        ("submit", [s for run in runs for s in run.alone.submit]),
        ("take", [s for run in runs for s in run.alone.take]),
        ("loaded_submit", [s for run in runs for s in run.loaded_submit]),
    ):
        for percent in (50, 99):
            found[f"{call}_p{percent}"] = percentile(values, percent) * 1000
    return found


def percentile(values: list[float], percent: int) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


# ---- tables --------------------------------------------------------------------------------------
def print_rates(results: Results) -> None:
    print(f"\n{'trajectories/s':<17}{'median':>10}{'lowest':>10}{'highest':>10}{'MB/s':>8}"
          f"{'broker over it':>18}")  # fmt: skip
    for kb, by_name in results.items():
        for name, runs in by_name.items():
            found = spread(rates(runs))
            ratio = ratios_to({kb: by_name}, name)
            over = f"{ratio[kb]['median']:.2f}" if ratio and name != OURS else ""
            cells = "".join(f"{found[key]:>10.0f}" for key in ("median", "min", "max"))
            print(f"{kb:>3} KB {name:<10}{cells}{found['median'] * kb / 1000:>8.0f}{over:>18}")


def print_latencies(latencies: dict[int, dict[str, dict[str, float]]]) -> None:
    print(f"\n{'ms':<17}" + "".join(f"{call:>18}" for call in ("submit", "take", "loaded submit"))
          + f"\n{'':<17}" + f"{'p50':>9}{'p99':>9}" * 3)  # fmt: skip
    for kb, by_name in latencies.items():
        for name, found in by_name.items():
            cells = "".join(f"{value:>9.2f}" for value in found.values())
            print(f"{kb:>3} KB {name:<10}{cells}")


def print_summary(document: dict[str, Any]) -> None:
    print()
    if document["crowd"]:
        for cost in document["crowd"]["costs"]:
            print(f"after {cost['groups']:>6} groups: {cost['cpu_us_a_group']:.0f} us of CPU a "
                  f"group, {cost['memory_bytes'] / 2**20:.0f} MiB resident")  # fmt: skip
        print(f"peak memory above the start: {document['peak_bytes'] / 2**20:.1f} MiB")
    for key, goal in GOALS.items():
        value = document[key]
        shown = "not measured" if value is None else f"{value:.2f}"
        print(f"{key:<20}{shown:>14}   goal {goal}")


if __name__ == "__main__":
    stop_with_parent()
    sys.exit(main())
