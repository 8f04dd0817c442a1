"""Whole small runs of the learner's options: real processes, as in `test_session`.

Holds learner/push/follower.py, learner/push/pusher.py.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.rendering import Renderer
from common.served_names import pushed_name
from learner.checkpoint import list_checkpoints
from tests.learner.conftest import World, make_world
from tests.learner.runs import Run, assert_same, student_at
from tests.learner.scripted_rollout import Script
from tests.tiny_model import make_tiny_checkpoint

Sections = dict[str, dict[str, object]]
Weights = dict[str, torch.Tensor]
KEEP_ALL = {"every_steps": 1, "keep": 99}
# One that all the options can be told from: fewer ids than there are, several micro-batches.
DEFAULTS: Sections = {
    "data": {"heldout": None},
    "objective": {"top_k": 5},
    "learner": {"max_steps": 2},
    "checkpoint": KEEP_ALL,
}


def merged(sections: Sections) -> Sections:
    names = DEFAULTS.keys() | sections.keys()
    return {name: {**DEFAULTS.get(name, {}), **sections.get(name, {})} for name in names}


def train(run: Run) -> None:
    """To the end."""
    rollout = run.start_rollout(0, Script(is_uneven=True))
    learner = run.start_learner()
    assert run.finish(learner) == 0, run.output()
    assert run.finish(rollout) == run.finish(run.broker) == 0, run.output()


def checkpoint(run: Run, version: int) -> Path:
    path = run.folder / "checkpoints" / f"step-{version:06d}"
    assert path in list_checkpoints(run.folder / "checkpoints")
    return path


@pytest.fixture(scope="module")
def plain(
    dataset: Path,
    tiny_checkpoint: Path,
    renderer: Renderer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    """A run of two steps with no option set."""
    folder = tmp_path_factory.mktemp("plain")
    run = Run(make_world(dataset, tiny_checkpoint, renderer, folder), folder, **DEFAULTS)
    train(run)
    yield run
    run.close()


def test_rows_tell_how_long_a_checkpoint_kept_the_step_waiting(plain: Run) -> None:
    first, second = [row["checkpoint/stall_s"] for row in plain.steps()]
    assert first == 0.0 < second < 60.0


# Which step's loss is the first that an option changes; None: the run is the same, bit for bit.
OPTIONS: dict[str, tuple[Sections, int | None]] = {
    "visual_advantage": ({"objective": {"token_weights": "visual_advantage"}}, 1),
    "answer_hint": (
        {"teacher": {"view": "answer_hint", "answer_hint": " the digit is {answer}"}},
        1,
    ),
    "progressive": ({"teacher": {"policy": "progressive", "interval_steps": 1}}, 2),
    "trust_region": ({"teacher": {"policy": "trust_region", "student_share": 0.5}}, 2),
    "fixed": ({"teacher": {"policy": "fixed", "path": "another"}}, 1),
    "sampled_reverse_kl": ({"objective": {"divergence": "sampled_reverse_kl", "top_k": None}}, 1),
    "all_tokens": ({"objective": {"top_k": None}}, 1),
    "micro_batch_mean": ({"objective": {"aggregation": "micro_batch_mean"}}, 1),
    "render_processes": ({"learner": {"render_processes": 1}}, None),
}

QUICK = ("visual_advantage", "answer_hint")  # each run takes seconds


def marked(name: str) -> Any:
    return pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in OPTIONS])
def test_a_run_with_an_option_trains_pushes_and_saves(
    start, plain: Run, tmp_path: Path, name: str
) -> None:
    sections, first_changed = OPTIONS[name]
    if name == "fixed":
        another = make_tiny_checkpoint(tmp_path / "another", seed=1)
        sections = {"teacher": {**sections["teacher"], "path": str(another)}}
    run = start(**merged(sections))
    train(run)
    assert run.summary()["steps"] == 2 and run.summary()["trajectories_trained"] == 24
    losses = [row["learner/loss_nats"] for row in run.steps()]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    before, after = run.received("rollout-0", 0), run.received("rollout-0", 1)
    assert_same(before, student_at(run, Path(run.config.model.path)))
    assert_same(after, student_at(run, checkpoint(run, 1)))
    assert all(weights.isfinite().all() for weights in after.values())
    assert any(not torch.equal(after[key], before[key]) for key in before)

    usual = [row["learner/loss_nats"] for row in plain.steps()]
    different = [step for step in (1, 2) if losses[step - 1] != usual[step - 1]]
    assert different == list(range(first_changed or 3, 3))
    last, usual_last = (student_at(r, checkpoint(r, 2)) for r in (run, plain))
    if first_changed is None:
        assert_same(last, usual_last)
    else:
        assert any(not torch.equal(last[key], usual_last[key]) for key in last)


RANK, ALPHA = 4, 8.0


def train_adapters(start, world: World) -> Run:
    run = start(
        **merged({"model": {"lora_rank": RANK, "lora_alpha": ALPHA}, "learner": {"max_steps": 3}})
    )
    train(run)
    return run


def merged_by_hand(base: Weights, folder: Path) -> tuple[Weights, set[str]]:
    """The start's weights plus a checkpoint's adapters; which of them have one."""
    adapters = load_file(folder / "training/adapters.safetensors")
    found, adapted = dict(base), set()
    for name, lora_a in adapters.items():
        path, _, part = name.rpartition(".")
        if part == "lora_a":
            key = pushed_name(f"{path}.weight")
            found[key] = base[key] + ALPHA / RANK * (adapters[f"{path}.lora_b"] @ lora_a)
            adapted.add(key)
    return found, adapted


def test_adapters_are_pushed_and_saved_merged_and_resumed_bit_for_bit(start, world: World) -> None:
    run = train_adapters(start, world)
    base = run.received("rollout-0", 0)
    assert_same(base, student_at(run, Path(run.config.model.path)))
    for version in (1, 2):
        folder = checkpoint(run, version)
        pushed = run.received("rollout-0", version)
        assert_same(pushed, student_at(run, folder))  # loaded as a plain model
        expected, adapted = merged_by_hand(base, folder)
        assert len(adapted) == 14  # the 7 linear layers of 2 decoder layers
        for name in adapted:
            assert torch.equal(pushed[name], expected[name]), name
            assert not torch.equal(pushed[name], base[name]), f"{name} was not trained"
        for name in base.keys() - adapted:
            if "visual" not in name:
                assert torch.equal(pushed[name], base[name]), f"{name} is frozen"
    resume_from_step_2(run)


def resume_from_step_2(run: Run) -> None:
    """Step 3 again, by a learner that knows no more than the checkpoint does."""
    last = checkpoint(run, 3)
    first_time = last.parent.parent / "first-time"
    shutil.move(last, first_time)
    run.broker = run.start_module("broker.main")
    train(run)
    assert "going on from" in run.output() and [r["step"] for r in run.steps()] == [1, 2, 3]
    files = sorted(p.relative_to(last) for p in last.rglob("*.safetensors"))
    assert len(files) == 5, files
    for file in files:
        assert_same(load_file(last / file), load_file(first_time / file))


@pytest.mark.slow
def test_ranks_push_merged_adapters(start) -> None:
    """Also where the push is verified, which the first rank sees to by itself."""
    options: Sections = {
        "model": {"lora_rank": RANK, "lora_alpha": ALPHA},
        "learner": {"ranks": 2, "rank_timeout_s": 20.0},
    }
    run = start(**merged(options))
    rollout = run.start_rollout(0, Script(is_uneven=True))
    learners = run.start_ranks(2)
    assert [run.finish(process) for process in (*learners, rollout)] == [0, 0, 0], run.output()
    pushed, folder = run.received("rollout-0", 1), checkpoint(run, 1)
    assert_same(pushed, student_at(run, folder))
    expected, adapted = merged_by_hand(run.received("rollout-0", 0), folder)
    assert adapted and all(torch.allclose(pushed[name], expected[name]) for name in adapted)
