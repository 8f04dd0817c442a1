"""A run folder in which every second is known: what a learner and a broker would have written.

One server, S = 1, two groups a step. The learner begins when the broker's clock is at 5; it starts
for 10 s and measures for 4 s. Each step waits 0.5 s for its batch, which was complete before, and
takes 2 s. Weights are served 0.3 s after a step; groups take 1 s from then on.
"""

import json
from pathlib import Path

from broker.storage.frames import encode_record
from common.config import RunConfig
from common.config_cli import build, dump_toml
from tests.tiny_model import make_tiny_checkpoint

BEGAN_S, STARTUP_S, EVALUATION_S = 5.0, 10.0, 4.0
WAIT_S, STEP_S, SERVE_S, GROUP_S = 0.5, 2.0, 0.3, 1.0
LATE_S = 0.0  # of the wait: until the batch was complete
PARTS = {
    "time/vision_s": 0.25,
    "time/student_forward_s": 0.25,
    "time/objective_s": 0.125,
    "time/backward_s": 0.75,
    "time/teacher_forward_s": 0.25,
    "time/optimizer_s": 0.0625,
    "time/teacher_update_s": 0.0625,
    "sync/stall_s": 0.125,
}  # together 1.875: 0.125 s of a step are in none of them
LEARNER, SERVER = ("learner-0", 1), ("rollout-0", 2)


def make_run(folder: Path, model: Path, steps: int = 6, is_over: bool = True, **sections) -> Path:
    folder.mkdir()
    config = _config(folder, model, sections)
    (folder / "config.toml").write_text(dump_toml(config), encoding="utf-8")
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in _rows(steps)), encoding="utf-8"
    )
    if is_over:
        seconds = _ends(steps) + 1.0
        (folder / "summary.json").write_text(json.dumps({"seconds": seconds, "steps": steps}))
    (folder / "journal").mkdir()
    records = [encode_record(number, at, *call) for number, (at, *call) in enumerate(_calls(steps))]
    (folder / "journal" / "journal.log").write_bytes(b"".join(records))
    return folder


def tiny_model(folder: Path) -> Path:
    make_tiny_checkpoint(folder)
    return folder


def _config(folder: Path, model: Path, sections: dict[str, dict[str, object]]) -> RunConfig:
    tree: dict[str, dict[str, object]] = {
        "run": {"folder": folder},
        "model": {"path": str(model)},
        "broker": {"max_staleness": 1},
        "rollout": {"engine": "embedded", "max_concurrent_groups": 2, "threads": 1},
        "learner": {"groups_per_step": 2, "device": "cpu", "threads": 1},
    }
    for section, fields in sections.items():
        tree[section] = {**tree.get(section, {}), **fields}
    return build(tree)


def _ends(step: int) -> float:
    """When a step ended on the learner's clock."""
    return STARTUP_S + EVALUATION_S + step * (WAIT_S + STEP_S)


def _rows(steps: int):
    yield {
        "step": 0,
        "time_s": STARTUP_S + EVALUATION_S,
        "evaluation/stall_s": EVALUATION_S,
        "evaluation/samples": 40,
        "evaluation/full_accuracy": 0.5,
    }
    for step in range(1, steps + 1):
        yield {
            "step": step,
            "time_s": _ends(step),
            "learner/step_s": STEP_S,
            "learner/wait_batch_s": WAIT_S,
            "staleness/mean_steps": float(step > 1),
            "staleness/max_steps": int(step > 1),
            "sync/publish_s": 0.1,
            **PARTS,
        }


def _calls(steps: int):
    """(seconds, command, arguments, outcome) as the broker's journal has them."""
    yield 0.0, "begin", ({"format": 1},), None
    yield 1.0, "join", (LEARNER, "learner"), None
    yield 1.0, "join", (SERVER, "rollout"), None
    yield 2.0, "serve", (SERVER, 0, 0), None
    yield from _generation(2.0, 0)
    yield from _generation(3.0, 1)
    last = 0.0
    for step in range(1, steps + 1):
        ended_s = BEGAN_S + _ends(step)
        asked_s = ended_s - STEP_S - WAIT_S
        names = tuple((f"0/{2 * step - 2 + k}", 0) for k in range(2))
        yield max(last, asked_s) + LATE_S, "take", (LEARNER, step, 0, 1), names
        yield ended_s, "acknowledge", (LEARNER, step, step, {}, 0), True
        last = ended_s
        if step < steps:
            yield ended_s + SERVE_S, "serve", (SERVER, 0, step), None
        if step + 1 < steps:
            yield from _generation(ended_s + SERVE_S, step + 1)


def _generation(begin_s: float, batch: int):
    names = tuple((f"0/{2 * batch + k}", 0) for k in range(2))
    yield begin_s, "lease", (SERVER, bytes([batch]), 2, 0, batch, begin_s), names
    for name, attempt in names:
        receipt = (batch, batch, 30, (3, 5))
        yield begin_s + GROUP_S, "submit", (SERVER, name, attempt, receipt), "accepted"
