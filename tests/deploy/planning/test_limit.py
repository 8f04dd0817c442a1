"""What limits a run: a folder for each answer."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from broker.protocol import Role, Status
from common.config_cli import build, dump_toml
from common.errors import ConfigError
from deploy.planning.explain_text import page, sentence
from deploy.planning.limit import WINDOW
from deploy.planning.run_files import read_run
from tests.deploy.showing.support import status
from tests.deploy.statuses import member

PARTS = {"time/backward_s": 0.9, "time/vision_s": 0.3, "time/optimizer_s": 0.1}


def a_run(
    folder: Path,
    steps: int = 30,
    waited: float = 0.0,
    observed: dict[str, float] | None = None,
    is_over: bool = False,
    sections: dict[str, Any] | None = None,
    **figures: float,
) -> Path:
    """A run whose steps take 2 s, of which the learner waits some.

    Args:
        waited: seconds of waiting beside them.
        observed: the launcher's figures.
        figures: of each training row, by the end of their names.
    """
    folder.mkdir(exist_ok=True)
    tree: dict[str, Any] = {
        "run": {"folder": folder}, "rollout": {"servers": 2}, "learner": {"groups_per_step": 8},
        "broker": {"max_staleness": 1},
    }  # fmt: skip
    for section, fields in (sections or {}).items():
        tree[section] = {**tree.get(section, {}), **fields}
    (folder / "config.toml").write_text(dump_toml(build(tree)))
    names = {"stalled": "sync/stall_s", "saved": "checkpoint/stall_s", "action": "health/action"}
    more = {names[name]: value for name, value in figures.items() if name in names}
    rows: list[dict[str, float]] = []
    measured = figures.get("measured", 0.0)
    for step in range(1, steps + 1):
        after = 20 + (2 + waited + figures.get("saved", 0.0) + measured) * step
        time_s = after - measured
        row = {"step": step, "time_s": time_s, "learner/step_s": 2.0,
               "learner/wait_batch_s": waited}  # fmt: skip
        rows.append({**row, **PARTS, **more})
        if "measured" in figures:
            rows.append(
                {"step": step, "time_s": after, "evaluation/stall_s": measured,
                 "evaluation/samples": 64}
            )  # fmt: skip
    write(folder / "metrics.jsonl", rows)
    if observed is not None:
        looks = [{"step": step, "time_s": 2.0 * step, **observed} for step in range(1, steps + 1)]
        write(folder / "observations.jsonl", looks)
    (folder / "summary.json").unlink(missing_ok=True)
    if is_over:
        (folder / "summary.json").write_text('{"seconds": 99}')
    return folder


def write(path: Path, rows: list[dict[str, float]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def looks(idle: float, slots: float = 16.0, ready: float = 0.0) -> dict[str, float]:
    return {
        "rollout/idle_share": idle, "broker/slots_used": slots, "broker/groups_ready": ready,
    }  # fmt: skip


def told(folder: Path, seen: Status | None = None) -> str:
    return sentence(read_run(folder), seen)


def test_rollout_that_limits_says_how_many_servers_would_do(tmp_path: Path) -> None:
    run = a_run(tmp_path, waited=1.4, observed=looks(0.02))
    assert told(run) == (
        "Rollout limits it: the learner waited 41 % of the last 20 steps for batches; add 2 servers"
        " (rollout.servers 2 > 4)."
    )
    little = a_run(tmp_path, waited=0.5, observed=looks(0.02))
    assert told(little).endswith("add a server (rollout.servers 2 > 3).")
    seen = status({}).model_copy(
        update={"members": tuple(member(f"rollout-{n}", Role.ROLLOUT) for n in range(5))}
    )
    assert "rollout.servers 5 > 7" in told(little, seen)  # scaled since it began
    attached = {"rollout": {"engine_urls": ["http://127.0.0.1:1"], "servers": 1}}
    assert "attach more engines" in told(a_run(tmp_path, waited=1.4, sections=attached))


def test_a_run_that_is_over_is_judged_by_all_its_time(tmp_path: Path) -> None:
    run = a_run(tmp_path, waited=1.4, is_over=True)  # 30 steps of 3.4 s after a start of 20 s
    assert told(run) == (
        "Rollout limited it: the learner waited 34 % of the run for batches; add 2 servers "
        "(rollout.servers 2 > 4)."
    )
    recent = read_run(run, last_bytes=3_000)  # its start is not in there
    assert sentence(recent).startswith(
        f"Rollout limited it: the learner waited 41 % of the last {len(recent.steps)} steps"
    )


def test_the_wait_for_the_first_batch_alone_limits_nothing(tmp_path: Path) -> None:
    run = a_run(tmp_path, steps=4, observed=looks(0.6), is_over=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["time_s"] += 6.0
    rows[0]["learner/wait_batch_s"] = 6.0
    write(run / "metrics.jsonl", rows)
    (run / "summary.json").write_text('{"seconds": 34}')
    text = told(run)
    assert text.startswith("The learner limited it: ") and "waited only 18 % of the run" in text
    assert text.endswith("; its start took 59 % of the run.")


def quickstart(folder: Path, between_s: float) -> Path:
    """A run like the quickstart: measured beside the steps, and at the end for the whole set."""
    run = a_run(
        folder, steps=10, is_over=True,
        sections={"evaluation": {"every_steps": 4}, "data": {"heldout": "deploy/README.md"}},
    )  # fmt: skip
    with (run / "metrics.jsonl").open("a") as file:
        for step, stall_s, samples in ((0, 1.0, 512), (4, between_s, 128), (10, 19.0, 512)):
            row = {"step": step, "time_s": 60.0 + between_s, "evaluation/stall_s": stall_s,
                   "evaluation/samples": samples}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    (run / "summary.json").write_text(json.dumps({"seconds": 60 + between_s}))
    return run


def test_measuring_has_the_share_and_the_key_that_the_table_shows(tmp_path: Path) -> None:
    run = quickstart(tmp_path, 0.0)
    text = page(read_run(run), None)
    assert text.splitlines()[0] == told(run) == (
        "Measuring accuracy limited it: it took 33 % of the run; measure fewer samples "
        "(evaluation.samples 0, all 512, > 256)."
    )  # fmt: skip
    assert re.search(r"evaluation +20.0 s +33 %", text)
    often = told(quickstart(tmp_path, 30.0))
    assert "it took 56 % of the run; measure less often (evaluation.every_steps 4 > 8)." in often


def test_two_sides_that_wait_by_an_unknown_cause_are_not_blamed_on_one(tmp_path: Path) -> None:
    text = told(a_run(tmp_path, waited=2.0, observed={"rollout/idle_share": 0.5}))
    assert text.startswith("Waiting for each other limits it: ")
    assert "broker.max_staleness 1 > 2, or learner.render_processes" in text


def test_the_learner_that_limits_names_its_largest_part(tmp_path: Path) -> None:
    run = a_run(tmp_path, waited=0.1, observed=looks(0.6))
    text = told(run)
    assert text.startswith(
        "The learner limits it: backward is 69 % of its work, and it waited only"
    )
    assert "servers had no work 60 %" in text and "learner.ranks 1 > 2" in text
    assert "gradient_checkpointing false" in text


def test_a_balanced_run_is_called_so(tmp_path: Path) -> None:
    text = told(a_run(tmp_path, waited=0.1, observed=looks(0.05)))
    assert text.startswith("It is balanced: ") and "rollout.servers 2 > 4" in text


@pytest.mark.parametrize("bound", [0, 1])
def test_the_staleness_bound_that_limits(tmp_path: Path, bound: int) -> None:
    slots = 8.0 * (bound + 1)
    run = a_run(
        tmp_path, waited=2.0, observed=looks(0.5, slots),
        sections={"broker": {"max_staleness": bound}},
    )  # fmt: skip
    assert told(run) == (
        "The staleness bound limits it: the learner waited 50 % of the last 20 steps for batches "
        "while the servers had nothing to do 50 % of theirs, with all slots taken; raise "
        f"broker.max_staleness {bound} > {bound + 1}."
    )


def test_batches_that_were_there_are_late_because_of_their_images(tmp_path: Path) -> None:
    run = a_run(tmp_path, waited=1.0, observed=looks(0.7, 16.0, 9.0))
    text = told(run)
    assert (
        text.startswith("Decoding images limits it") and "learner.render_processes none >" in text
    )


def test_free_slots_while_both_sides_wait_point_to_the_broker(tmp_path: Path) -> None:
    text = told(a_run(tmp_path, waited=2.0, observed=looks(0.7, 6.0)))
    assert text.startswith("The broker limits it") and "62 % of the slots free" in text
    assert "broker.fsync = interval" in text


def test_pushes_that_limit(tmp_path: Path) -> None:
    run = a_run(tmp_path, stalled=0.8)
    assert told(run) == (
        "Weight pushes limit it: they kept the learner waiting 40 % of the last 20 steps; push less"
        " often: learner.groups_per_step 8 > 16."
    )
    wide = a_run(tmp_path, stalled=0.8, sections={"weights": {"dtype": "float32"}})
    assert "weights.dtype float32 > bfloat16" in told(wide)
    files = a_run(tmp_path, stalled=0.8, sections={"weights": {"transport": "files"}})
    assert "weights.transport files > broadcast" in told(files)


def test_measuring_that_limits(tmp_path: Path) -> None:
    run = a_run(
        tmp_path, measured=2.0,
        sections={"evaluation": {"every_steps": 1}, "data": {"heldout": "deploy/README.md"}},
    )  # fmt: skip
    assert told(run) == (
        "Measuring accuracy limits it: it took 50 % of the last 20 steps; measure less often "
        "(evaluation.every_steps 1 > 2)."
    )
    fewer = told(a_run(tmp_path, measured=2.0))
    assert fewer.endswith("measure fewer samples (evaluation.samples 0, all 64, > 32).")


def test_saving_that_limits(tmp_path: Path) -> None:
    run = a_run(tmp_path, saved=1.0, sections={"checkpoint": {"every_steps": 5}})
    text = told(run)
    assert text.startswith("Saving checkpoints limits it: the learner stood still 33 % of")
    assert text.endswith("(checkpoint.every_steps 5 > 10).")


def test_a_gate_that_paused_it_by_its_row_or_by_the_learner_s_word(tmp_path: Path) -> None:
    assert told(a_run(tmp_path, action=2)).startswith("A health gate paused it after step 30: ")
    assert "paused" not in told(a_run(tmp_path, action=2, is_over=True))
    run = a_run(tmp_path)
    assert "paused" not in told(run, status({"phase": 2.0}))
    assert told(run, status({"phase": 5.0})).startswith("A health gate paused it")


def test_a_disk_that_is_full_stops_it(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    broker = status({}).model_copy(update={"store_failure": "No space left on device"})
    assert told(run, broker).startswith("The broker's disk stops it (No space left on device)")
    learner = status({"phase": 2.0, "waits_for_room": 1.0})
    assert told(run, learner).startswith("A full disk stops it")


def test_a_run_that_starts_says_what_it_waits_for(tmp_path: Path) -> None:
    run = read_run(a_run(tmp_path, steps=0))
    assert sentence(run) == "It starts: no step is trained yet."
    assert "(waiting for learner-0)" in sentence(run, None, ["waiting for learner-0"])
    ended = told(a_run(tmp_path, steps=0, is_over=True))
    assert ended.startswith("No step was trained")


@pytest.mark.parametrize("steps", [1, 3])
def test_too_few_steps_to_say(tmp_path: Path, steps: int) -> None:
    text = told(a_run(tmp_path, steps=steps))
    assert text.startswith(f"Too few steps to say what limits it: {steps} step")
    assert told(a_run(tmp_path, steps=4)).startswith("The learner limits it")


def test_now_is_the_last_steps_alone(tmp_path: Path) -> None:
    run = a_run(tmp_path, steps=60, waited=6.0, observed=looks(0.0))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows[-WINDOW:]:
        row["learner/wait_batch_s"] = 0.0
    write(run / "metrics.jsonl", rows)
    assert told(run).startswith("It is balanced")


def test_the_end_of_the_files_is_enough(tmp_path: Path) -> None:
    run = a_run(tmp_path, steps=200, waited=1.4, observed=looks(0.02))
    recent = read_run(run, last_bytes=8_000)
    assert WINDOW < len(recent.steps) < 60 and sentence(recent) == told(run)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.jsonl", "{broken}\n", r"metrics.jsonl, line 1: '\{broken\}' is no row"),
        ("metrics.jsonl", '{"learner/step_s": 1}\n', "has no step and time_s. Fix: remove it"),
        ("summary.json", "[1]", "summary.json: it holds no object. Fix: "),
        ("summary.json", '{"a', "summary.json: .* Fix: "),
        ("config.toml", "[run]\nno_key = 1\n", "no_key"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    run = a_run(tmp_path)
    (run / name).write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_run(run)
