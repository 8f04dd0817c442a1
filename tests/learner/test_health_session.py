"""What each health action does to a run: real processes, and responses that grow when told to."""

import asyncio
import json
import os
import signal
import time
from multiprocessing.process import BaseProcess

import pytest

from broker.client import BrokerClient
from broker.protocol import Role, Status
from common.metrics import METRICS
from learner.checkpoint import list_checkpoints
from tests.learner.runs import Run, assert_same, student_at
from tests.learner.scripted_rollout import LONG, SHORT, Script

LR, FACTOR = 1e-2, 0.5
GROUPS = {"groups_per_step": 2}  # 6 steps an epoch
UNMEASURED = {"samples": 1}
KEEP_ALL = {"every_steps": 1, "keep": 99}
GATES = {
    "warmup_steps": 1,
    "patience": 1,
    "length_growth": 1.5,
    "divergence_growth": None,
    "entropy_shrink": None,
    "accuracy_drop": None,
    "mismatch_kl_nats": None,
    "sample_mismatch_kl_nats": None,
}


def long_at(*versions: int, history: int = 0) -> frozenset[tuple[int, int]]:
    return frozenset((history, version) for version in versions)


def begin(start, action: str, long_ones: frozenset, **sections) -> tuple[Run, BaseProcess]:
    """A run and its learner; the rollout's responses are long in some steps' batches."""
    health = {**GATES, "action": action, **sections.pop("health", {})}
    defaults = {"learner": GROUPS, "evaluation": UNMEASURED, **sections}
    run = start(health=health, **defaults)
    run.start_rollout(0, Script(long_ones=long_ones))
    return run, run.start_learner()


def finish(run: Run, learner: BaseProcess) -> dict:
    """The summary of a run that ends well."""
    assert run.finish(learner) == 0, run.output()
    assert run.finish(run.broker) == 0, run.output()
    return run.summary()


def status_of(run: Run) -> Status:
    async def ask() -> Status:
        async with BrokerClient(run.config.broker.address, "test", Role.OBSERVER) as broker:
            return await broker.status()

    return asyncio.run(ask())


def versions_in(run: Run) -> list[int]:
    return [int(path.name[-6:]) for path in list_checkpoints(run.folder / "checkpoints")]


def health_of(run: Run) -> dict:
    return json.loads((run.folder / "health.json").read_text())


@pytest.mark.slow
def test_a_gate_that_warns_changes_nothing_else(start):
    run, learner = begin(start, "warn", long_at(3, 4))
    summary = finish(run, learner)
    assert summary["steps"] == 6 and summary["trajectories_trained"] == 36
    steps = run.steps()
    assert [row["health/action"] for row in steps] == [0, 0, 0, 1, 0, 0]  # once
    ratios = [row.get("health/length_ratio") for row in steps]
    assert ratios == [None, 1, 1, LONG / SHORT, LONG / SHORT, 1]  # the first step is the baseline
    assert not any("health/entropy_ratio" in row for row in steps), "that gate is off"
    assert {row["learner/lr"] for row in steps} == {LR}
    (warning,) = [line for line in run.output().splitlines() if "response length" in line]
    assert "WARNING" in warning and "step 4: warn: " in warning
    assert "3 times its baseline of 3 (health.length_growth = 1.5) for 1 step" in warning
    assert health_of(run)["tracks"]["length"]["reference"] == SHORT
    assert set().union(*run.rows()) <= METRICS.keys() | {"step", "time_s"}


@pytest.mark.slow
def test_a_paused_run_waits_as_a_member_and_goes_on_when_told(start):
    """And the second time it is ended while it waits."""
    run, learner = begin(start, "pause", long_at(1, 4), broker={"member_timeout_s": 10.0})
    run.wait_until(lambda: "paused" in run.output(), learner)
    began = time.monotonic()
    while time.monotonic() < began + 2.5:  # several of its heartbeats
        status = status_of(run)
        assert status.version == 1, "step 2 is not acknowledged before the pause is over"
        (member,) = [m for m in status.members if m.member_id == "learner-0"]
        time.sleep(0.2)
    assert member.silent_s < time.monotonic() - began, "it was not heard of since the pause"
    assert member.gauges["phase"] == 5 and member.gauges["health_alarms"] == 1
    assert [row["step"] for row in run.steps()] == [1]
    paused_s = time.monotonic() - began
    os.kill(learner.pid, signal.SIGUSR1)
    run.wait_until(lambda: run.output().count("paused") == 2, learner)
    steps = run.steps()
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert [row["health/action"] for row in steps] == [0, 2, 0, 0]
    assert steps[1]["time_s"] - steps[0]["time_s"] > paused_s > steps[1]["learner/step_s"] + 1

    os.kill(learner.pid, signal.SIGTERM)
    summary = finish(run, learner)
    assert summary["interrupted"] is True and summary["steps"] == 5
    assert summary["trajectories_trained"] == 30
    assert [row["step"] for row in run.steps()] == [1, 2, 3, 4, 5] and versions_in(run) == [5]


def test_a_stopped_run_says_why_and_keeps_no_checkpoint_of_it(start):
    run, learner = begin(start, "stop", long_at(3), checkpoint=KEEP_ALL)
    assert run.finish(learner) == 2
    message = run.output()
    assert "stopped by a health gate: response length 9 tokens is 3 times its baseline" in message
    assert "(health.length_growth = 1.5) for 1 step" in message
    assert "the newest checkpoint from before it is of step 2" in message
    assert "Fix: " in message and "Traceback" not in message
    assert versions_in(run) == [1, 2, 3] and [row["step"] for row in run.steps()] == [1, 2, 3]
    assert not (run.folder / "summary.json").exists()
    assert status_of(run).version == 3, "the step that stopped it was not acknowledged"


@pytest.mark.parametrize(
    ("patience", "expired"),
    [(1, 12), (2, 18)],  # steps 3 and 4; step 5 as well
    ids=["at once", "at the second step"],
)
def test_a_run_that_rolls_back_does_its_bad_steps_again(start, patience: int, expired: int):
    """Versions 3 and 4 of the first history answer at length, so steps 4 and 5 are bad.

    The weights of step 3 are at fault then, so that it goes back to step 2.
    """
    run, learner = begin(
        start, "roll_back", long_at(3, 4), checkpoint=KEEP_ALL, health={"patience": patience}
    )
    began = time.monotonic()
    run.finish(learner)
    lasted_s = time.monotonic() - began
    summary = finish(run, learner)
    assert summary["seconds"] < lasted_s + 0.5, "what it undid counts once"
    assert "going back to step 2: response length 9 tokens" in run.output()
    assert summary["steps"] == 6
    assert summary["trajectories_trained"] == 36  # each sample thrice in what counts
    assert summary["trajectories_expired"] == expired
    steps = run.steps()
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [row["learner/lr"] for row in steps] == [LR] * 2 + [LR * FACTOR] * 4
    assert [row["learner/response_mean_tokens"] for row in steps] == [SHORT] * 6
    assert [row["step"] for row in run.rows() if "evaluation/samples" in row] == [0, 6]
    times = [row["time_s"] for row in run.rows()]
    assert times == sorted(times) and times[-1] <= summary["seconds"]
    assert versions_in(run) == [1, 2, 3, 4, 5, 6]
    for version in (3, 5):  # both of the second history
        stored = student_at(run, run.folder / "checkpoints" / f"step-{version:06d}")
        assert_same(run.received("rollout-0", version), stored)
    assert health_of(run)["roll_backs"] == 1
    assert health_of(run)["tracks"]["length"]["streak"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("every_steps", [1, 5])
def test_a_run_that_cannot_go_back_stops(start, every_steps: int):
    """Either with no roll-back left, or with no checkpoint from before it went wrong."""
    is_early = every_steps == 5
    run, learner = begin(
        start,
        "roll_back",
        long_at(1, 2, 3, 4, 5),
        checkpoint={"every_steps": every_steps, "keep": 99},
        health={} if is_early else {"max_roll_backs": 0},
    )
    assert run.finish(learner) == 2
    message = run.output()
    assert "stopped by a health gate: response length" in message and "Fix: " in message
    if not is_early:
        assert "has been rolled back 0 times (health.max_roll_backs = 0)" in message
        assert "the newest checkpoint from before it is of step 1" in message
        assert versions_in(run) == [1]
    else:
        assert "no checkpoint from before step 2 is kept (checkpoint.every_steps" in message
        assert versions_in(run) == []


@pytest.mark.slow
def test_a_killed_learner_remembers_that_it_has_rolled_back(start):
    """Killed after its roll-back, gone on with half the rate, and then it may not roll back."""
    run, learner = begin(
        start,
        "roll_back",
        long_at(3) | {(history, 20) for history in range(4)},
        checkpoint={"every_steps": 2, "keep": 99},
        data={"epochs": 4},
        health={"max_roll_backs": 1},
    )
    run.wait_until(lambda: any(row["learner/lr"] == LR * FACTOR for row in run.steps()), learner)
    learner.kill()
    learner.join()
    assert max(row["step"] for row in run.steps()) < 20
    again = run.start_learner("learner-again")
    assert run.finish(again) == 2, run.output()
    output = (run.folder / "learner-again.out").read_text()
    assert "going on from" in output and "going back" not in output
    assert "has been rolled back 1 times (health.max_roll_backs = 1)" in output
    rates = [row["learner/lr"] for row in run.steps()]
    assert rates == [LR] * 2 + [LR * FACTOR] * 18


@pytest.mark.slow
def test_ranks_roll_back_together(start):
    run = start(
        learner={**GROUPS, "ranks": 2},
        evaluation=UNMEASURED,
        checkpoint=KEEP_ALL,
        health={**GATES, "action": "roll_back", "patience": 2},
    )
    run.start_rollout(0, Script(long_ones=long_at(3, 4)))
    learners = run.start_ranks(2)
    summary = finish(run, learners[0])
    assert run.finish(learners[1]) == 0, run.output()
    assert summary["steps"] == 6 and summary["trajectories_trained"] == 36
    assert [row["learner/lr"] for row in run.steps()] == [LR] * 2 + [LR * FACTOR] * 4
    for rank in range(2):
        output = (run.folder / f"learner-{rank}.out").read_text()
        assert "going back to step 2" in output


def test_an_accuracy_that_falls_is_told_of_its_version_and_the_best_checkpoint_kept(start):
    """Measurements come when later steps have been trained already."""
    run = start(
        learner=GROUPS,
        evaluation={"every_steps": 1},
        checkpoint={"every_steps": 1, "keep": 1, "keep_best": 1},
        health={**GATES, "length_growth": None, "accuracy_drop": 0.05, "action": "warn"},
    )
    run.start_rollout(0, Script(right_until=2))
    learner = run.start_learner()
    summary = finish(run, learner)
    assert summary["full_accuracy_before"] == 1.0 and summary["full_accuracy_after"] == 0.0
    rows = [row for row in run.rows() if "evaluation/version" in row]
    assert [row["evaluation/version"] for row in rows] == [*range(7)]
    assert [row["evaluation/full_accuracy"] for row in rows] == [1, 1, 1, 0, 0, 0, 0]
    actions = [row.get("health/action") for row in rows]
    assert actions == [None, 0, 0, 1, 0, 0, None], "once, and neither before nor after training"
    assert versions_in(run) == [2, 6]
