"""Makes the quickstart's starting checkpoint from nothing, in a few minutes on two cores.

    python -m deploy.quickstart.pretrain FOLDER --seed 0

Writes a Hugging Face folder and `pretraining.json` (how it was made, and how well it reads held-out
scenes). Floating point differs between machines and thread counts, so another machine's checkpoint
is not the same bit for bit.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.quickstart.lessons import LESSONS, Lesson
from deploy.quickstart.measure import measure_checkpoint
from deploy.quickstart.model import make_model, save_checkpoint
from deploy.quickstart.processor import make_processor
from deploy.quickstart.scenes import World
from deploy.quickstart.teaching import NOT_LEARNT, Batch, Teaching

WARMUP_STEPS = 30
MAX_GRAD_NORM = 1.0


def teach(model: Any, teaching: Teaching, lesson: Lesson, world: World, seed: int) -> None:
    """Train one lesson with a new optimizer; prints its progress."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lesson.lr, betas=(0.9, 0.99))
    started, digit_losses = time.monotonic(), deque[float](maxlen=20)
    for step in range(lesson.steps):
        exercise = lesson.exercises[step % len(lesson.exercises)]
        views = [exercise.draw(world, rng) for _ in range(exercise.views)]
        batch = teaching.batch(views, exercise, rng)
        for group in optimizer.param_groups:
            group["lr"] = lesson.lr * _lr_share(step, lesson)
        digit_losses += _learn(model, optimizer, batch)
        if (step + 1) % 15 == 0:
            loss, took = statistics.fmean(digit_losses), time.monotonic() - started
            line = f"{step + 1}/{lesson.steps}  digit loss {loss:.3f} nats  {took:.0f} s"
            print(f"{lesson.name:>12}  {line}", flush=True)


def _learn(model: Any, optimizer: torch.optim.Optimizer, batch: Batch) -> list[float]:
    """One optimizer step; the mean loss of its digits in nats, if it has any."""
    hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state
    chosen = batch.labels != NOT_LEARNT
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(hidden[chosen]), batch.labels[chosen], reduction="none"
    )
    weights = batch.weights[chosen]
    optimizer.zero_grad()
    torch.autograd.backward((losses * weights).sum() / weights.sum())
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    digits = losses.detach()[batch.is_digit[chosen]]
    return [float(digits.mean())] if len(digits) else []


def _lr_share(step: int, lesson: Lesson) -> float:
    decay = lesson.final_lr_share + (1 - lesson.final_lr_share) * (1 - step / lesson.steps)
    return min((step + 1) / WARMUP_STEPS, 1.0) * decay


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deploy.quickstart.pretrain", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--scenes", type=int, default=600, help="held-out scenes measured (600)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    processor = make_processor()
    model = make_model(processor.tokenizer, options.seed)
    teaching, world = Teaching(processor.tokenizer, model), World("train")
    for number, lesson in enumerate(LESSONS):
        teach(model, teaching, lesson, world, seed=options.seed * len(LESSONS) + number)
    took = time.monotonic() - started
    save_checkpoint(options.folder, model, processor)
    accuracy = measure_checkpoint(options.folder, options.scenes)
    record = {
        "command": f"python -m deploy.quickstart.pretrain FOLDER --seed {options.seed}",
        "seconds": round(took),
        "threads": options.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "lessons": [asdict(lesson) for lesson in LESSONS],
        "heldout": asdict(accuracy),
    }
    path = options.folder / "pretraining.json"
    path.write_text(
        json.dumps(record, indent=1, default=lambda function: function.__name__) + "\n",
        encoding="utf-8",
    )
    print(f"held-out: full image {accuracy.full:.3f}, crop {accuracy.crop:.3f}; {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
