import numpy as np
import pytest
import torch

from common.errors import DataError
from common.types import FinishReason, Group, Trajectory, VersionSpan


def changed(group: Group, **fields: object) -> Group:
    return Group(**{**dict(group), **fields})


def changed_first(group: Group, **fields: object) -> Group:
    first = Trajectory(**{**dict(group.trajectories[0]), **fields})
    return changed(group, trajectories=(first, *group.trajectories[1:]))


@pytest.fixture
def preparation(world):
    return world.preparation(world.trainer())


def test_a_good_group_is_prepared_with_both_views(world, preparation):
    group = world.group(0, lengths=(3, 1, 2))
    batch = preparation.prepare(1, [group])
    (prepared,) = batch.groups
    assert batch.refused == {} and batch.step == 1
    assert [len(ids) for ids in prepared.responses] == [3, 1, 2]
    assert prepared.student.num_tokens == group.num_prompt_tokens
    full, crop = prepared.student.image_grid_thw.tolist(), prepared.teacher.image_grid_thw.tolist()
    assert full == [[1, 6, 8]] and crop == [[1, 4, 4]]
    text = [v.input_ids[v.input_ids != world.renderer.image_token_id] for v in (
        prepared.student, prepared.teacher
    )]  # fmt: skip
    assert text[0].tolist() == text[1].tolist()  # only the image differs


@pytest.mark.parametrize(
    "make_bad, reason",
    [
        (lambda g: changed(g, prompt_token_ids=g.prompt_token_ids[:-1]), "prompt tokens differ"),
        (lambda g: changed(g, num_prompt_tokens=g.num_prompt_tokens + 1), "engine counted"),
        (
            lambda g: changed_first(g, response_token_ids=np.array([20, 99, 20], np.int32)),
            "outside the vocabulary",
        ),
        (
            lambda g: changed_first(g, response_token_ids=np.array([20, -1, 20], np.int32)),
            "outside the vocabulary",
        ),
        (
            lambda g: changed_first(g, response_token_ids=np.array([20, 5, 20], np.int32)),
            "vision token",
        ),
        (lambda g: changed_first(g, finish_reason=FinishReason.ABORT), "aborted"),
        (
            lambda g: changed_first(
                g, version_spans=(VersionSpan(version=1, start=0, end=3),)
            ),
            "claims version 1",
        ),
        (
            lambda g: changed(
                g, sample=g.sample.model_copy(update={"image": g.sample.image.model_copy(
                    update={"path": "images/missing.png", "sha256": "0" * 64})
                    , "sample_id": "other"})
            ),
            "missing.png",
        ),
    ],
)  # fmt: skip
def test_a_bad_group_is_refused_and_the_others_are_kept(world, preparation, make_bad, reason):
    groups = [world.group(0), make_bad(world.group(1)), world.group(2)]
    batch = preparation.prepare(1, groups)
    assert [group.group_id for group in batch.groups] == ["0/0", "0/2"]
    assert list(batch.refused) == ["0/1"] and reason in batch.refused["0/1"]


@pytest.mark.parametrize("allowed", [0, 2])
def test_the_staleness_guard_counts_from_the_oldest_token(world, allowed):
    config = world.changed(broker={"max_staleness": allowed})
    preparation = world.preparation(world.trainer(config), config)
    mixed = (VersionSpan(version=1, start=0, end=2), VersionSpan(version=3, start=2, end=3))
    group = changed_first(world.group(0, version=3), version_spans=mixed)
    batch = preparation.prepare(4, [group])  # the learner is at version 3
    if allowed == 2:
        assert batch.groups[0].staleness == (2, 0, 0)
    else:
        assert "2 steps stale, 0 are allowed" in batch.refused["0/0"]


def test_a_prompt_over_the_limit_is_refused(world):
    config = world.changed(model={"max_prompt_tokens": 20})
    preparation = world.preparation(world.trainer(config), config)
    batch = preparation.prepare(1, [world.group(0)])
    assert "over model.max_prompt_tokens = 20" in batch.refused["0/0"]


def test_a_random_crop_is_placed_by_run_seed_and_group(world):
    config = world.changed(teacher={"view": "random_crop"})
    other_seed = world.changed(teacher={"view": "random_crop"}, run={"seed": 4})
    trainer = world.trainer()

    def pixels(config, number: int) -> bytes:
        group = changed(world.group(0), group_id=f"0/{number}")
        batch = world.preparation(trainer, config).prepare(1, [group])
        return batch.groups[0].teacher.pixel_values.numpy().tobytes()

    assert pixels(config, 0) == pixels(config, 0)
    assert len({pixels(config, 0), pixels(config, 1), pixels(other_seed, 0)}) == 3


def test_views_are_kept_within_their_bytes(world):
    trainer = world.trainer()
    views = world.views(trainer)
    (one,) = views.students(world.samples[:1])
    assert views.students(world.samples[:1])[0] is one
    small = type(views)(
        world.renderer, world.images, world.config.teacher, views._positions, one.num_bytes
    )
    (first,) = small.students(world.samples[:1])
    small.teachers(world.samples[:1], [0])
    assert small.students(world.samples[:1])[0] is not first


def test_views_rendered_together_equal_those_rendered_alone(world):
    trainer = world.trainer()
    together = world.views(trainer).students(world.samples)
    alone = [world.views(trainer).students([sample])[0] for sample in world.samples]
    for first, second in zip(together, alone, strict=True):
        assert torch.equal(first.input_ids, second.input_ids)
        assert torch.equal(first.position_ids, second.position_ids)
        assert torch.equal(first.pixel_values, second.pixel_values)
        assert torch.equal(first.image_grid_thw, second.image_grid_thw)


def test_a_problem_that_cannot_be_rendered_costs_only_itself(world):
    broken = world.samples[1].model_copy(update={"problem": "no placeholder", "sample_id": "x"})
    views = world.views(world.trainer()).students([world.samples[0], broken, world.samples[2]])
    assert [isinstance(view, DataError) for view in views] == [False, True, False]
