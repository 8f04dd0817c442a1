"""Holds learner/scoring.py."""

import copy
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import VisionOpdError
from learner.figures import stopwatch
from learner.micro_batches import fill_bins
from learner.views.inputs import PreparedBatch

LENGTHS = [(3, 1, 2), (1, 1, 1), (5, 2, 4), (2, 6, 1)]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(world, config=None, steps: int = 2):
    trainer = world.trainer(config)
    preparation = world.preparation(trainer, config)
    results = []
    for step in range(1, steps + 1):
        groups = [world.group(4 * step + i, LENGTHS[i], version=step - 1) for i in range(4)]
        results.append(trainer.step(preparation.prepare(step, groups)))
    return trainer, results


def assert_close(first, second, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    for name, tensor in weights(first).items():
        torch.testing.assert_close(
            tensor, second.get_parameter(name), rtol=rtol, atol=atol, msg=name
        )


def test_two_trainings_with_one_seed_are_identical(world):
    first, _ = train(world)
    second, _ = train(world)
    for name, tensor in weights(first.model).items():
        assert torch.equal(tensor, second.model.get_parameter(name)), name


def test_a_step_changes_every_parameter_and_counts_versions(world):
    trainer = world.trainer()
    before = weights(trainer.model)
    trained, results = train(world, steps=1)
    assert trained.version == results[0].version == 1 and results[0].is_updated
    for name, tensor in weights(trained.model).items():
        assert not torch.equal(tensor, before[name]), name


def test_only_the_second_half_of_a_step_changes_weights(world):
    """So a push may copy the weights beside the first half."""
    trainer, whole = world.trainer(), world.trainer()
    batch = world.preparation(trainer).prepare(1, [world.group(i, LENGTHS[i]) for i in range(2)])
    student, teacher = weights(trainer.model), weights(trainer.teacher.model)
    gradient = trainer.accumulate(batch)
    assert trainer.version == 0 and not gradient.is_empty
    for model, before in ((trainer.model, student), (trainer.teacher.model, teacher)):
        for name, tensor in weights(model).items():
            assert torch.equal(tensor, before[name]), name
    result = trainer.update(gradient)
    assert trainer.version == result.version == 1 and result.is_updated
    assert result.worst_sample == gradient.worst_sample != ""
    whole.step(batch)
    for name, tensor in weights(trainer.model).items():
        assert torch.equal(tensor, whole.model.get_parameter(name)), name
        assert not torch.equal(tensor, student[name]), name


@pytest.mark.parametrize(
    "other",
    [
        {"learner": {"micro_batch_tokens": 1}},
        {"learner": {"micro_batch_tokens": 100}},
        {"model": {"share_prefix": False}},
        {"model": {"gradient_checkpointing": True}},
        {"learner": {"teacher_batch_tokens": 1}},
        {"model": {"attention": "eager"}},
    ],
)
def test_the_result_does_not_depend_on_how_it_is_computed(world, other):
    """Compared by gradient norm and loss: Adam turns rounding of zero gradients into steps."""
    _, (expected,) = train(world, steps=1)
    _, (found,) = train(world, world.changed(**other), steps=1)
    for key in ("learner/loss_nats", "learner/grad_norm", "learner/entropy_nats"):
        assert found.metrics[key] == pytest.approx(expected.metrics[key], rel=1e-5), key


@pytest.mark.smoke
@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
def test_gradients_equal_a_plain_loop_over_trajectories(world, aggregation):
    """The step's gradient against one forward pass a trajectory, written out."""
    config = world.changed(objective={"aggregation": aggregation}, optimizer={"max_grad_norm": 1e9})
    trainer = world.trainer(config)
    groups = (
        world.preparation(trainer, config)
        .prepare(1, [world.group(i, LENGTHS[i]) for i in range(4)])
        .groups
    )
    model, reference = trainer.model, copy.deepcopy(trainer.model)
    sequences = [(g, ids, lp) for g in groups
                 for ids, lp in zip(g.responses, g.rollout_logprobs, strict=True)]  # fmt: skip
    total = 0.0
    for group, ids, rollout in sequences:
        log_s = plain_logprobs(reference, group.student, ids)
        with torch.no_grad():
            log_t = plain_logprobs(trainer.teacher.model, group.teacher, ids)
        m = torch.log(0.5 * log_s.exp() + 0.5 * log_t.exp())
        jsd = 0.5 * (log_s.exp() * (log_s - m) + log_t.exp() * (log_t - m)).sum(-1)
        sampled = log_s.detach().gather(1, torch.from_numpy(ids)[:, None])[:, 0]
        weighted = (sampled - torch.from_numpy(rollout)).exp().clamp(max=2.0) * jsd
        share = {
            "sequence_mean": weighted.mean() / len(sequences),
            "token_mean": weighted.sum() / sum(len(ids) for _, ids, _ in sequences),
        }[aggregation]
        total += share.item()
        share.backward()
    gradients = {n: p.grad for n, p in reference.named_parameters()}
    expected_norm = torch.cat([g.flatten() for g in gradients.values()]).norm().item()

    captured = {}
    update = trainer.optimizer.step
    trainer.optimizer.step = lambda step: (
        captured.update({n: p.grad.clone() for n, p in model.named_parameters()}),
        update(step),
    )[1]
    result = trainer.step(PreparedBatch(1, groups))
    assert result.metrics["learner/loss_nats"] == pytest.approx(total, rel=1e-5)
    assert result.metrics["learner/grad_norm"] == pytest.approx(expected_norm, rel=1e-4)
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            captured[name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-9, msg=name
        )


def plain_logprobs(model, view, ids) -> torch.Tensor:
    tokens = torch.cat([view.input_ids, torch.from_numpy(ids)])[None]
    image_token = model.config.image_token_id
    logits = model(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        mm_token_type_ids=(tokens == image_token).long(),
        pixel_values=view.patching.patches([view.pixels], torch.float32),
        image_grid_thw=view.image_grid_thw,
        use_cache=False,
    ).logits[0]
    return logits[view.num_tokens - 1 : -1].log_softmax(-1)


@pytest.mark.smoke
def test_the_teacher_follows_the_student_by_its_rate(world):
    trainer = world.trainer()
    start = weights(trainer.model)
    trained, _ = train(world, steps=1)
    for name, teacher in trained.teacher.model.named_parameters():
        expected = 0.95 * start[name] + 0.05 * trained.model.get_parameter(name)
        torch.testing.assert_close(teacher, expected.detach(), rtol=1e-5, atol=1e-7, msg=name)


def test_a_batch_without_usable_groups_makes_no_update(world):
    trainer = world.trainer()
    before = weights(trainer.model)
    result = trainer.step(PreparedBatch(1, (), {"0/0": "broken"}))
    assert (result.version, result.is_updated) == (1, False)
    assert result.metrics["learner/refused_groups"] == 1
    for name, tensor in weights(trainer.model).items():
        assert torch.equal(tensor, before[name]), name


def test_a_step_without_a_finite_gradient_leaves_student_and_teacher(world):
    trainer = world.trainer()
    groups = world.preparation(trainer).prepare(1, [world.group(0)]).groups
    before = weights(trainer.teacher.model)
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight[0, 0] = float("nan")
    result = trainer.step(PreparedBatch(1, groups))
    assert not result.is_updated and trainer.version == 1
    assert result.metrics["learner/skipped_steps"] == 1
    for name, tensor in weights(trainer.teacher.model).items():
        assert torch.equal(tensor, before[name]), name


def test_a_micro_batch_without_room_tells_what_to_change(world):
    """A hook stands in for a GPU's allocator."""

    def refuse(module, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    trainer = world.trainer(world.changed(learner={"micro_batch_tokens": 77}))
    groups = world.preparation(trainer).prepare(1, [world.group(0)]).groups
    trainer.model.base_model.language_model.register_forward_pre_hook(refuse)
    with pytest.raises(VisionOpdError, match=r"_tokens = 77: .*2\.00 GiB.*Fix: lower it"):
        trainer.step(PreparedBatch(1, groups))


def test_the_first_published_step_has_lr_zero(world):
    config = world.changed(optimizer={"warmup_steps": 10, "warmup_from_zero": True})
    trainer = world.trainer(config)
    before = weights(trainer.model)
    trained, results = train(world, config, steps=1)
    assert results[0].metrics["learner/lr"] == 0
    for name, tensor in weights(trained.model).items():
        assert torch.equal(tensor, before[name]), name


def test_bfloat16_computes_with_float32_masters(world):
    config = world.changed(model={"dtype": "bfloat16"})
    trained, (half,) = train(world, config, steps=1)
    _, (full,) = train(world, steps=1)
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())
    assert half.metrics["learner/loss_nats"] != full.metrics["learner/loss_nats"]
    assert half.metrics["learner/loss_nats"] == pytest.approx(
        full.metrics["learner/loss_nats"], rel=0.05
    )


@pytest.mark.smoke
def test_training_moves_the_student_towards_the_teacher(world):
    config = world.changed(teacher={"policy": "frozen"}, optimizer={"lr": 3e-3})
    trainer = world.trainer(config)
    preparation = world.preparation(trainer, config)
    groups = [world.group(i, LENGTHS[i]) for i in range(4)]
    prepared = preparation.prepare(1, groups).groups
    values = [
        trainer.step(PreparedBatch(step, prepared)).metrics["learner/divergence_nats"]
        for step in range(1, 9)
    ]
    assert values[-1] < 0.7 * values[0]


def test_token_divergences_are_zero_between_equal_views(world):
    trainer = world.trainer()
    views = world.views(trainer)
    full = views.students(world.samples[:3])
    crop = views.teachers(world.samples[:3], [0] * 3)
    ids = [group.trajectories[0].response_token_ids.astype("int64")
           for group in (world.group(i, LENGTHS[i]) for i in range(3))]  # fmt: skip
    same = trainer.token_divergences(full, full, ids)
    other = trainer.token_divergences(full, crop, ids)
    assert [len(row) for row in same] == [3, 1, 5]
    assert max(abs(v) for row in same for v in row) < 1e-6
    assert min(v for row in other for v in row) > 1e-6


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 40))
def test_bins_hold_every_item_once_within_their_room(sizes: list[int], room: int):
    items = list(enumerate(sizes))
    bins = fill_bins(items, lambda item: item[1], room)
    assert sorted(item for items in bins for item in items) == items
    for held in bins:
        assert len(held) == 1 or sum(size for _, size in held) <= room
    firsts = [held[0][1] for held in bins]
    assert firsts == sorted(firsts, reverse=True)  # the largest pass comes first
    halves = [held for held in bins if sum(size for _, size in held) * 2 <= room]
    assert len(halves) <= 1  # first fit leaves at most one bin half empty


def test_a_steps_parts_are_timed_and_do_not_overlap(world):
    trainer = world.trainer()
    batch = world.preparation(trainer).prepare(1, [world.group(i, LENGTHS[i]) for i in range(4)])
    started = time.perf_counter()
    metrics = trainer.step(batch).metrics
    elapsed_s = time.perf_counter() - started
    parts = {key: value for key, value in metrics.items() if key.startswith("time/")}
    names = ("vision", "student_forward", "teacher_forward", "objective", "backward")
    assert parts.keys() == {f"time/{n}_s" for n in (*names, "optimizer", "teacher_update")}
    assert all(parts[f"time/{name}_s"] > 0 for name in names)
    assert sum(parts.values()) <= elapsed_s


def test_vision_is_the_time_of_the_students_tower_alone(world, monkeypatch):
    """On a clock that only the towers move: the teacher's time is not in the vision part."""
    trainer = world.trainer()
    assert trainer.teacher.model is not trainer.model
    now_s = 0.0
    monkeypatch.setattr(stopwatch._HostClock, "mark", lambda clock: now_s)
    for model, duration_s in ((trainer.model, 2.0), (trainer.teacher.model, 4.0)):
        forward = model.base_model.visual.forward

        def slow(*arguments, duration_s=duration_s, forward=forward, **named):
            nonlocal now_s
            now_s += duration_s
            return forward(*arguments, **named)

        monkeypatch.setattr(model.base_model.visual, "forward", slow)
    batch = world.preparation(trainer).prepare(1, [world.group(0, LENGTHS[0])])
    metrics = trainer.step(batch).metrics
    assert metrics["time/vision_s"] == 2.0
    assert metrics["time/teacher_forward_s"] == 4.0
    assert metrics["time/student_forward_s"] == 0.0
