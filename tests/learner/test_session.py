"""The learner as a process, against the real broker, with rollouts that make responses up.

Holds learner/measuring/heldout.py, learner/measuring/scenes.py, learner/progress.py,
learner/saving.py.
"""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from common.config import WeightsSection
from common.errors import BrokerUnavailable
from common.metrics import METRICS, OBSERVED, Over, names_over
from common.types import WeightBucket
from learner.checkpoint import list_checkpoints
from learner.feed import Feed
from learner.interrupt import Interrupted
from learner.push.buckets import Snapshot, plan_buckets, snapshot_of
from tests.learner.runs import assert_same, student_at
from tests.learner.scripted_rollout import Script

ROOT = Path(__file__).resolve().parents[2]


def test_a_whole_run_trains_pushes_measures_and_reports(start):
    run = start(
        checkpoint={"every_steps": 1, "keep": 10},
        evaluation={"every_steps": 2},
        weights={"bucket_mib": 1},
    )
    undone = run.folder / "heldout" / "step-000099.jsonl"
    undone.parent.mkdir()
    undone.touch()
    learner, rollout = run.start_learner(), run.start_rollout()
    assert run.finish(learner) == 0, run.output()
    assert run.finish(rollout) == 0, run.output()
    assert run.finish(run.broker) == 0, run.output()

    summary = run.summary()
    assert summary["steps"] == 3 and summary["trajectories_trained"] == 36
    assert summary["max_staleness_seen"] == 0 and summary["trajectories_expired"] == 0
    assert summary["interrupted"] is False and summary["seed"] == 3
    for key in ("full_accuracy_before", "crop_accuracy_after", "seconds"):
        assert isinstance(summary[key], float), key

    rows = run.rows()
    steps = [row for row in rows if "learner/loss_nats" in row]
    assert [row["step"] for row in steps] == [1, 2, 3]
    versions = [row["evaluation/version"] for row in rows if "evaluation/version" in row]
    assert versions == [summary["version_before"], 2, summary["version_after"]] == [0, 2, 3]
    assert [row["learner/trajectories"] for row in steps] == [12, 12, 12]
    assert all(row["learner/ratio_clipped_share"] > 0 for row in steps)
    measured = [row["evaluation/samples"] for row in rows if "evaluation/samples" in row]
    assert measured == [12, 5, 12]
    for when, number in (("before", 0), ("after", -1)):  # random models seldom end by themselves
        row = [row for row in rows if "evaluation/samples" in row][number]
        for view in ("full", "crop"):
            assert summary[f"{view}_cut_share_{when}"] == row[f"evaluation/{view}_cut_share"]
    assert summary["full_cut_share_before"] > 0
    assert measuring_rows(run)[0]["evaluation/full_cut_share"] == pytest.approx(1 / 3)
    assert "evaluation.max_response_tokens = 4" in run.output()

    checkpoints = list_checkpoints(run.folder / "checkpoints")
    assert [path.name[-1] for path in checkpoints] == ["1", "2", "3"]
    assert_same(run.received("rollout-0", 0), student_at(run, Path(run.config.model.path)))
    for version in (1, 2, 3):  # the last are pushed to be measured
        assert_same(run.received("rollout-0", version), student_at(run, checkpoints[version - 1]))

    scenes = json.loads((run.folder / "scenes.json").read_text())["scenes"]
    assert len(scenes) == 3
    for scene in scenes:
        assert Path(scene["image"]).is_file() and Path(scene["crop"]).is_file()
        assert scene["before"]["version"] == 0 and scene["after"]["version"] == 3
        assert scene["after"]["full"]["tokens"][0]["divergence_nats"] >= -1e-6
    for version, number in ((0, 12), (2, 5), (3, 12)):  # the answers behind the accuracies
        path = run.folder / "heldout" / f"step-{version:06d}.jsonl"
        items = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(items) == number and {item["set"] for item in items} == {"samples"}
        right = [item["full"]["is_correct"] for item in items]
        (row,) = (r for r in measuring_rows(run) if r["evaluation/version"] == version)
        assert row["evaluation/full_accuracy"] == sum(right) / number
    assert not undone.exists()
    assert list((run.folder / "tensorboard").iterdir())


def measuring_rows(run) -> list[dict]:
    return [row for row in run.rows() if "evaluation/version" in row]


@pytest.mark.parametrize("keeps_copies", [True, False])
def test_measured_weights_are_answered_whatever_a_server_can_keep(start, keeps_copies):
    """Without a copy the next push waits, and with several servers one copy is enough."""
    run = start(
        evaluation={"every_steps": 1},
        broker={"max_staleness": 1},
        rollout={"servers": 2},
        checkpoint={"every_steps": 1},
        health={"warmup_steps": 1},
        data={"keep_columns": ["answer"]},
    )
    learner = run.start_learner()
    run.start_rollout(0, Script(keeps_copies=False))
    run.start_rollout(1, Script(keeps_copies=keeps_copies))
    assert run.finish(learner) == 0, run.output()
    found = measuring_rows(run)
    assert [row["evaluation/version"] for row in found] == [0, 1, 2, 3]
    assert [row["evaluation/samples"] for row in found] == [12, 5, 5, 12]
    assert [row["step"] for row in run.steps()] == [1, 2, 3]
    # Such a run has every figure of a learner: none is declared and never logged. But a best of 0
    # bounds no accuracy, and this model is never right.
    logged = {name for row in run.rows() for name in row} - {"step", "time_s"}
    groups = [json.loads(line) for line in (run.folder / "groups.jsonl").read_text().splitlines()]
    assert sum(row["learner/trajectories"] for row in groups) == 36
    for row in groups:  # the rows of the tiny world have their numbers' last digit for an answer
        assert row["columns"] == {"answer": row["sample_id"][-1]}
    # Whether there are tokens of an age is a matter of time.
    of_an_age = set(names_over(Over.TOKENS_OF_AGE))
    observed = {metric.name for metric in OBSERVED}
    assert logged | of_an_age | {"health/accuracy_ratio"} == METRICS.keys() - observed
    assert logged & of_an_age


def test_a_run_that_nobody_measures_goes_on_and_says_so(start):
    run = start(evaluation={"timeout_s": 0.5, "every_steps": 1}, checkpoint={"every_steps": 1})
    learner = run.start_learner()
    run.start_rollout(0, Script(answers=False))
    assert run.finish(learner) == 0, run.output()
    assert measuring_rows(run) == [] and run.summary()["steps"] == 3
    assert run.summary()["full_accuracy_after"] is None
    for version in range(4):
        assert f"version {version} is not measured: 0 of " in run.output()
    assert not (run.folder / "scenes.json").exists()


def test_a_killed_learner_goes_on_from_its_checkpoint(start):
    """Twice: between two checkpoints, and before the first."""
    run = start(
        checkpoint={"every_steps": 2}, learner={"groups_per_step": 2}, evaluation={"samples": 3}
    )
    rollout = run.start_rollout()
    for step in (1, 4):
        learner = run.start_learner()
        run.wait_for_step(step, learner)
        learner.kill()
        learner.join()
    before = [row for row in run.rows() if "evaluation/samples" in row]
    learner = run.start_learner()
    assert run.finish(learner) == 0, run.output()
    assert run.finish(rollout) == 0, run.output()
    assert run.finish(run.broker) == 0, run.output()

    summary = run.summary()
    assert summary["steps"] == 6 and summary["trajectories_trained"] == 36
    assert summary["full_accuracy_before"] == before[0]["evaluation/full_accuracy"]
    assert summary["heldout_samples"] == 3
    rows = run.rows()
    assert [row["step"] for row in rows if "learner/lr" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "evaluation/samples" in row] == [0, 6]
    times = [row["time_s"] for row in rows]
    assert times == sorted(times) and summary["seconds"] >= times[-1]
    assert "going on from" in run.output()
    (scene, *_) = json.loads((run.folder / "scenes.json").read_text())["scenes"]
    assert (scene["before"]["version"], scene["after"]["version"]) == (0, 6)


def test_a_learner_of_a_run_that_is_done_measures_and_reports(start):
    run = start(evaluation={"samples": 2})
    learner, rollout = run.start_learner(), run.start_rollout()
    assert run.finish(learner) == 0, run.output()
    assert run.finish(rollout) == run.finish(run.broker) == 0, run.output()
    first = run.summary()
    (run.folder / "summary.json").unlink()
    run.broker = run.start_module("broker.main")
    learner = run.start_learner()  # no rollout server: there is nothing left to generate
    assert run.finish(learner) == run.finish(run.broker) == 0, run.output()
    again = run.summary()
    assert again.pop("seconds") > first.pop("seconds")
    assert again == first


def test_a_checkpoint_that_is_damaged_is_one_clear_line(start):
    run = start(evaluation={"samples": 1})
    folder = run.folder / "checkpoints" / "step-000002"
    folder.mkdir(parents=True)
    learner = run.start_learner()
    assert run.finish(learner) == 1
    assert f"{folder}/state.json: it cannot be read" in run.output() and "Fix:" in run.output()
    assert "Traceback" not in run.output()


def test_stopped_learner_saves_what_it_has_and_ends_the_run(start):
    run = start(evaluation={"samples": 2}, learner={"groups_per_step": 1}, data={"epochs": 500})
    learner, rollout = run.start_learner(), run.start_rollout()
    run.wait_for_step(1, learner)
    os.kill(learner.pid, signal.SIGTERM)
    assert run.finish(learner) == 0, run.output()
    assert run.finish(rollout) == 0, run.output()
    summary = run.summary()
    assert summary["interrupted"] is True and summary["full_accuracy_after"] is None
    assert summary["steps"] >= 1
    (checkpoint,) = list_checkpoints(run.folder / "checkpoints")
    assert int(checkpoint.name[-6:]) == summary["steps"]


def test_a_server_that_dies_in_a_push_is_left_out_of_the_next_try(start):
    run = start(rollout={"servers": 2}, broker={"max_staleness": 1}, weights={"timeout_s": 5.0})
    learner = run.start_learner()
    rollout = run.start_rollout(0)
    dying = run.start_rollout(1, Script(die_at=1))
    assert run.finish(dying) == 9
    assert run.finish(learner) == 0, run.output()
    assert run.finish(rollout) == 0, run.output()
    assert run.summary()["steps"] == 3
    assert run.summary()["max_staleness_seen"] <= 1
    assert (run.record / "rollout-1-0.safetensors").exists()
    (checkpoint,) = list_checkpoints(run.folder / "checkpoints")
    assert checkpoint.name == "step-000003"
    assert (run.record / "rollout-0-2.safetensors").exists()
    assert "failed (try 1 of 3)" in run.output()


@pytest.mark.slow
def test_a_server_that_restarts_gets_the_weights_again(start):
    run = start(evaluation={"samples": 2}, weights={"timeout_s": 4.0})
    learner = run.start_learner()
    dying = run.start_rollout(0, Script(die_at=1))
    assert run.finish(dying) == 9
    rollout = run.start_rollout(0)
    assert run.finish(learner) == 0, run.output()
    assert run.finish(rollout) == 0
    assert run.summary()["steps"] == 3
    assert (run.record / "rollout-0-1.safetensors").exists()


@pytest.mark.slow
def test_a_broker_that_is_gone_is_a_clear_error(world):
    config = world.changed(broker={"address": "tcp://127.0.0.1:9"})
    preparation = world.preparation(world.trainer())
    feed = Feed(config, config.broker.address, "learner-0", preparation, request_timeout_s=0.1)
    with pytest.raises(BrokerUnavailable, match="no answer from the broker at tcp://127"), feed:
        pytest.fail("it has said hello to nobody")
    assert [thread.name for thread in threading.enumerate() if thread.name == "feed"] == []


def test_a_broker_that_dies_is_a_clear_error_where_the_batch_is_awaited(start, world):
    run = start()
    preparation = world.preparation(world.trainer())
    feed = Feed(run.config, run.config.broker.address, "learner-0", preparation, 0, 0.1)
    with feed:
        assert feed.welcome.total_steps == 3
        run.broker.kill()
        with pytest.raises(BrokerUnavailable, match="no answer from the broker"):
            feed.next_batch(timeout_s=60)
    assert [thread.name for thread in threading.enumerate() if thread.name == "feed"] == []


def test_an_interrupted_feed_says_so_and_ends(start, world):
    run = start()
    preparation = world.preparation(world.trainer())
    with Feed(run.config, run.config.broker.address, "learner-0", preparation) as feed:
        with pytest.raises(TimeoutError):
            feed.next_batch(timeout_s=0.05)
        feed.interrupt()
        with pytest.raises(Interrupted):
            feed.next_batch(timeout_s=5)
    assert [thread.name for thread in threading.enumerate() if thread.name == "feed"] == []


@pytest.mark.slow
def test_no_rollout_server_is_a_clear_error(start):
    run = start(rollout={"start_timeout_s": 1.0}, evaluation={"samples": 1})
    learner = run.start_learner()
    assert run.finish(learner) == 1
    assert "no rollout server came within 1 s" in run.output()
    assert "Traceback" not in run.output()


@pytest.mark.parametrize(
    "environment, arguments, message",
    [
        ({}, [], "run.folder is not set"),
        ({}, ["--run.folder", "x"], "data.train is not set"),
        ({}, ["--learner.bogus", "1"], "learner.bogus"),
    ],
)
def test_a_process_that_cannot_start_says_so_in_one_line(environment, arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "learner.main", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert message in done.stderr and "Fix:" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_buckets_hold_all_weights_in_order_within_their_size():
    weights = {
        "a": torch.zeros(300_000),
        "b": torch.zeros(3, 100_000),
        "c": torch.zeros(2_000_000),
        "d": torch.zeros(()),
        "e": torch.zeros(5, dtype=torch.int64),
    }
    buckets = plan_buckets(weights, torch.bfloat16, 1)
    assert [bucket.names for bucket in buckets] == [("a",), ("b",), ("c",), ("e", "d")]
    assert [bucket.num_bytes for bucket in buckets] == [600_000, 600_000, 4_000_000, 42]
    assert buckets[3].dtypes == ("int64", "bfloat16")
    assert buckets[1].shapes == ((3, 100_000),) and buckets[3].shapes == ((5,), ())


def test_what_servers_hold_in_float32_is_sent_so_and_every_tensor_begins_aligned():
    """SGLang 0.5.23 refuses a bucket whose tensors do not begin at their element's size."""
    layer = "model.layers.0.linear_attn"
    weights = {
        f"{layer}.dt_bias": torch.tensor([0.1, 0.2, 0.3]),
        f"{layer}.A_log": torch.tensor([0.1001, 1.3002, 2.7003]),
        f"{layer}.norm.weight": torch.full((5,), 1.001),
        "steps": torch.tensor([7, 8]),
    }
    for bucket_mib in (1, 1e-6):  # all in one, and each in its own
        snapshot = Snapshot(weights, torch.bfloat16, bucket_mib)
        snapshot.begin()
        snapshot.gather()
        found = snapshot.tensors()
        assert torch.equal(found[f"{layer}.A_log"], weights[f"{layer}.A_log"])
        for name in ("dt_bias", "norm.weight"):
            rounded = weights[f"{layer}.{name}"].bfloat16()
            assert found[f"{layer}.{name}"].dtype == torch.bfloat16
            assert torch.equal(found[f"{layer}.{name}"], rounded)
        assert all(starts_are_aligned(bucket) for bucket in snapshot.buckets)


def starts_are_aligned(bucket: WeightBucket) -> bool:
    sizes = [getattr(torch, dtype).itemsize for dtype in bucket.dtypes]
    lengths = [math.prod(s) * size for s, size in zip(bucket.shapes, sizes, strict=True)]
    starts = itertools.accumulate(lengths, initial=0)
    return all(start % size == 0 for start, size in zip(starts, sizes, strict=False))


def test_a_snapshot_holds_the_weights_as_they_were():
    weights = {"a": torch.randn(3, 5), "b": torch.randn(()), "c": torch.tensor([7, 8])}
    copies = {name: tensor.clone() for name, tensor in weights.items()}
    snapshot = Snapshot(weights, torch.bfloat16, 1)
    snapshot.begin()
    snapshot.gather()
    weights["a"].zero_()
    found = snapshot.tensors()
    assert found.keys() == copies.keys()
    for name, tensor in copies.items():
        sent = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
        assert found[name].dtype == sent
        assert torch.equal(found[name], tensor.to(sent)), name


def test_what_goes_to_files_is_held_in_main_memory():
    """Meta tensors stand for a GPU's."""
    weights = {"a": torch.empty(3, 5, device="meta")}
    for transport, device in (("files", "cpu"), ("broadcast", "meta")):
        snapshot = snapshot_of(WeightsSection(transport=transport), weights)
        assert snapshot.device.type == device
        assert {content.device.type for content in snapshot._contents} == {device}


def test_a_snapshot_that_fails_says_so_to_who_waits_for_it():
    weights = {"a": torch.zeros(4)}
    snapshot = Snapshot(weights, torch.float32, 1)
    snapshot.begin()
    del weights["a"]
    with pytest.raises(KeyError):
        snapshot.gather()
    with pytest.raises(KeyError):
        next(snapshot.ready())
