#!/usr/bin/env python3
"""How much faster is a whole learner step than the published one?

    .venv/bin/python tests/bench/step.py [--scale 8] [--groups 2] [--repeats 5] [--json FILE]

One step: teacher and student forward, objective, backward, clipping, AdamW, teacher update; the
same batches, model, optimizer, dtype, micro-batch budget and recomputation on both sides, in turns,
in one process. Ours: `learner.trainer`. The other: `learner/checking/published.py`, where it is
written what "the published way" does. Lengths and models: `learner/checking/shapes.py`.

`speedup`: seconds of the published step over ours, for each family: the median of pairs.
`tokens_per_s` counts tokens as the published way has them (every response with its prompt), so that
the two compare. `time_s`: where ours spends it, the median of each part.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # beside this file the packages `broker` and `rollout` would be benchmarks

from tests.bench.figures import machine, spread  # noqa: E402

FAMILIES = ("qwen3_vl", "qwen3_5")
GOALS = {"speedup": ">= 4"}


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, lengths / {options.scale:g}, "
          f"{options.groups} groups of 8, {options.dtype} on {options.device}\n")  # fmt: skip
    print(f"{'family':<10}{'published s':>12}{'ours s':>9}{'speedup':>9}{'min':>7}{'max':>7}"
          f"{'tokens/s':>10}")  # fmt: skip
    cases = [measure(family, options) for family in options.families]
    document = {
        "speedup": {case["family"]: case["speedup"]["median"] for case in cases},
        "goals": GOALS,
        "by_family": cases,
        "options": {k: str(v) for k, v in vars(options).items()},
        "machine": machine(),
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(family: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from learner.checking.lengths import scaled_lengths
    from learner.checking.published import PublishedTrainer
    from learner.checking.shapes import (
        make_batch,
        make_config,
        make_model,
        tenth_of_4b,
    )
    from learner.model.student import prepare_to_train

    torch.set_num_threads(options.threads)
    lengths = scaled_lengths(options.scale)
    config = make_config(lengths, options.groups, options.dtype)
    device = torch.device(options.device)
    model = prepare_to_train(
        make_model(family, tenth_of_4b(options.layers, options.vocabulary)), config.model, device
    )
    trainer = PublishedTrainer(config, model, total_steps=100)
    seconds: dict[str, list[float]] = {"published": [], "ours": []}
    parts: list[dict[str, float]] = []
    for repeat in range(-options.warmups, options.repeats):
        for way in ("published", "ours"):
            batch = make_batch(
                trainer.version + 1, options.groups, lengths, model, options.vocabulary
            )
            started = time.perf_counter()
            if way == "published":
                trainer.published_step(batch)
            else:
                metrics = trainer.step(batch).metrics
            _wait_for(device)
            if repeat >= 0:
                seconds[way].append(time.perf_counter() - started)
        if repeat >= 0:
            parts.append({k: v for k, v in metrics.items() if k.startswith("time/")})
    tokens = sum(
        g.student.num_tokens + len(r) for g in batch.groups for r in g.responses
    )  # of the last batch; all are alike
    case = {
        "family": family,
        "speedup": spread([p / o for p, o in zip(*seconds.values(), strict=True)]),
        "published_s": spread(seconds["published"]),
        "ours_s": spread(seconds["ours"]),
        "tokens_per_s": tokens / statistics.median(seconds["ours"]),
        "published_tokens_per_s": tokens / statistics.median(seconds["published"]),
        "time_s": {k: statistics.median(p[k] for p in parts) for k in parts[0]},
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    s = case["speedup"]
    print(f"{family:<10}{case['published_s']['median']:>12.2f}{case['ours_s']['median']:>9.2f}"
          f"{s['median']:>9.2f}{s['min']:>7.2f}{s['max']:>7.2f}{case['tokens_per_s']:>10.0f}",
          flush=True)  # fmt: skip
    return case


def _wait_for(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--scale", type=float, default=8.0, help="published lengths / scale")
    parser.add_argument("--groups", type=int, default=2, help="groups of 8 in a step")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmups", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
