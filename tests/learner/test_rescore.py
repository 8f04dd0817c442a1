"""What kept weights make of a group, against what the step found.

Holds learner/rescoring.py and learner/checkpoint/nearest.py.
"""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from common.config import RunConfig
from common.config_cli import dump_toml
from common.errors import CheckpointError, ConfigError, DataError
from common.rendering import Renderer
from common.trained import TOKEN_FIGURES, TrainedGroup
from learner.checkpoint import Checkpointer
from learner.checkpoint.nearest import KeptWeights, nearest_kept
from learner.loading import load_models
from learner.model.student import prompt_positions
from learner.ranks import Ranks
from learner.rescoring import RescoreRequest, rescore
from learner.trainer import Trainer
from learner.views.preparation import Preparation
from learner.views.training import open_training_views
from tests.learner.conftest import World, make_world
from tests.tiny_model import FAMILIES, make_tiny_checkpoint

CPU = torch.device("cpu")
LENGTHS = [(3, 1, 2), (1, 4, 1)]


class Trained(NamedTuple):
    """A run of two steps that kept the weights between them."""

    config: RunConfig
    steps: dict[int, tuple[TrainedGroup, np.ndarray]]  # a group of each, and its figures

    @property
    def folder(self) -> Path:
        assert self.config.run.folder is not None
        return self.config.run.folder

    def request(self, step: int, **changes: object) -> RescoreRequest:
        group, _ = self.steps[step]
        fields: dict[str, object] = {
            "sample_id": group.sample_id,
            "group_id": group.group_id,
            "step": step,
            "responses": [t.response_token_ids.tolist() for t in group.trajectories],
        }
        return RescoreRequest.model_validate_json(json.dumps(fields | changes))

    def answer(self, step: int, config: RunConfig | None = None, **changes: object) -> dict:
        request = self.request(step, **changes)
        return rescore(config or self.config, self.folder, request, None, CPU)


def trained(world: World, **sections: dict[str, object]) -> Trained:
    config = world.changed(**sections)
    assert config.run.folder is not None
    model, teacher = load_models(config, Ranks(0, 1, CPU, timeout_s=0.0), 0)
    banned = world.renderer.vision_token_ids
    trainer = Trainer(config, model, teacher, 10, banned, keeps_tokens=True)
    config.run.folder.mkdir()
    (config.run.folder / "config.toml").write_text(dump_toml(config))
    steps = {}
    with Checkpointer(
        config.run.folder / "checkpoints", trainer, world.renderer, config, lambda *_: None
    ) as saver:
        for step in (1, 2):
            groups = [world.group(2 * step + i, LENGTHS[i], step - 1) for i in range(2)]
            positions = functools.partial(prompt_positions, model)
            with open_training_views(config, world.renderer, positions) as views:
                vocabulary = len(model.get_output_embeddings().weight)
                preparation = Preparation(
                    config, world.renderer, views, vocabulary, world.samples_by_id
                )
                result = trainer.step(preparation.prepare(step, groups))
            assert result.rows is not None
            # Of the two groups the second: it lay behind the other in its row.
            (number,) = (n for n, g in enumerate(result.rows.groups) if g.group_id[-1] in "35")
            rest = sum(t.num_tokens for g in result.rows.groups[:number] for t in g.trajectories)
            group = result.rows.groups[number]
            own = sum(t.num_tokens for t in group.trajectories)
            steps[step] = (group, result.rows.figures_FT[:, rest : rest + own])
            if step == 1:
                saver.save()
    return Trained(config, steps)


def figures(answer: dict) -> np.ndarray:
    return np.array(
        [np.concatenate([r[name] for r in answer["responses"]]) for name in TOKEN_FIGURES]
    )


@pytest.mark.parametrize(
    ("sections", "tolerance"),
    [
        ({}, 1e-4),
        ({"model": {"dtype": "bfloat16"}}, 0.05),
        ({"model": {"lora_rank": 2}}, 1e-4),
        pytest.param(
            {"teacher": {"policy": "trust_region"}, "objective": {"divergence": "jsd"}},
            1e-4,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"objective": {"token_weights": "visual_advantage"}}, 1e-4, marks=pytest.mark.slow
        ),
    ],
    ids=["plain", "bfloat16", "adapters", "trust_region", "visual_advantage"],
)
def test_the_weights_that_a_step_began_from_find_what_the_step_found(world, sections, tolerance):
    run = trained(world, **sections)
    for step, checkpoint in ((1, "start"), (2, "step-000001")):
        answer = run.answer(step)
        assert answer["checkpoint_step"] == step - 1 and answer["is_exact"]
        assert answer["checkpoint"] == checkpoint
        _, found = run.steps[step]
        np.testing.assert_allclose(figures(answer), found, atol=tolerance, rtol=tolerance)
    differs = np.abs(run.steps[1][1] - figures(run.answer(2))[:, : run.steps[1][1].shape[1]])
    assert differs.max() > 10 * tolerance  # the figures tell one step from the other


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_families_find_again_what_the_step_found(family, dataset, tmp_path):
    checkpoint = make_tiny_checkpoint(tmp_path / family, family=family)
    renderer = Renderer(str(checkpoint))
    run = trained(make_world(dataset, checkpoint, renderer, tmp_path))
    for step in (1, 2):
        np.testing.assert_allclose(
            figures(run.answer(step)), run.steps[step][1], atol=1e-4, rtol=1e-4
        )


def test_the_likeliest_tokens_are_told_by_their_texts_and_agree_with_the_sampled_one(world):
    run = trained(world)
    answer = run.answer(2, top_k=100)  # more than all tokens
    group, _ = run.steps[2]
    for trajectory, response in zip(group.trajectories, answer["responses"], strict=True):
        assert len(response["positions"]) == trajectory.num_tokens
        ids = trajectory.response_token_ids.tolist()
        rows = zip(ids, response["positions"], response["teacher_logprob"], strict=True)
        for number, position, logprob in rows:
            for side in ("student", "teacher"):
                values = [value for _, value, _ in position[side]]
                assert values == sorted(values, reverse=True)
                assert sum(values) == pytest.approx(1.0, abs=1e-3)
            (same,) = (found for found in position["teacher"] if found[2] == number)
            assert same[1] == pytest.approx(np.exp(logprob), rel=1e-3)
            assert same[0] == world.renderer.token_texts([number])[0]
    assert answer["banned_token_ids"] == list(world.renderer.vision_token_ids)
    assert len(run.answer(2)["responses"][0]["positions"][0]["student"]) == 10


def test_where_the_model_of_the_start_is_gone_a_checkpoint_is_enough(world, tmp_path):
    run = trained(world)
    config = run.config.changed(model={"path": str(tmp_path / "gone")})
    answer = run.answer(2, config)
    np.testing.assert_allclose(figures(answer), run.steps[2][1], atol=1e-4, rtol=1e-4)
    later = run.answer(1, config)  # weights that this step has made: said, not hidden
    assert later["checkpoint_step"] == 1 and not later["is_exact"]
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint.*Fix: "):
        run.answer(1, config)


def test_what_cannot_be_rescored_is_said_in_words(world, tmp_path):
    run = trained(world)
    with pytest.raises(DataError, match="sample s99 is not in"):
        run.answer(2, sample_id="s99")
    with pytest.raises(DataError, match="token 99999 is outside the model's vocabulary"):
        run.answer(2, responses=[[99999]])
    gone = run.config.changed(data={"train": tmp_path / "gone.parquet"})
    with pytest.raises(DataError, match=r"gone\.parquet cannot be read"):
        run.answer(2, gone)
    adapters = run.config.changed(model={"path": str(tmp_path / "gone"), "lora_rank": 2})
    with pytest.raises(ConfigError, match=r"model\.path"):
        run.answer(2, adapters)


@pytest.mark.parametrize(
    ("names", "has_start", "version", "found"),
    [
        ([10, 20, 30], True, 25, 20),
        ([10, 20, 30], True, 30, 30),
        ([30, 40], True, 9, 0),
        ([30, 40], True, 28, 30),
        ([30, 40], False, 9, 30),
        ([], True, 28, 0),
    ],
)
def test_the_newest_weights_before_a_step_are_taken_or_else_the_nearest(
    tmp_path, names, has_start, version, found
):
    for name in names:
        (tmp_path / f"step-{name:06d}").mkdir(parents=True)
    path = tmp_path / f"step-{found:06d}" if found else None
    assert nearest_kept(tmp_path, version, has_start) == KeptWeights(found, path)


@pytest.mark.slow
def test_the_program_answers_a_request_or_says_why_not(world, tmp_path):
    run = trained(world)
    out = tmp_path / "answer.json"
    config = run.folder / "config.toml"
    command = [
        sys.executable, "-m", "learner.rescore", "--config", str(config), "--out", str(out),
        "--device", "cuda",  # none is idle here
    ]  # fmt: skip

    def ask(text: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)

    done = ask(run.request(2).model_dump_json())
    assert done.returncode == 0, done.stderr
    answer = json.loads(out.read_text())
    assert answer["device"] == "cpu"
    np.testing.assert_allclose(figures(answer), run.steps[2][1], atol=1e-4, rtol=1e-4)
    refused = ask('{"sample_id": "s1"}')
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("cannot rescore: group_id: ")
