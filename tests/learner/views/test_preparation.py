import dataclasses
import functools
import itertools
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from broker.ledger.shards import split_by_load
from common.config import LearnerSection
from common.dataset import Answers, read_answers
from common.errors import ConfigError, DataError
from common.group import Group, VersionSpan
from common.patching import Patching
from common.source import SampleSource
from common.training_data import foreseen_source
from common.types import FinishReason, Sample
from common.views.settings import ViewSettings
from common.views.showing import derived_seed
from learner.model.student import prompt_positions
from learner.views.cache import ViewCache
from learner.views.inputs import PromptView
from learner.views.preparation import Preparation
from learner.views.prompts import PromptViews
from learner.views.training import open_training_views, render_processes, training_answers
from learner.views.upcoming import UpcomingSamples
from rollout.engine_views import EngineViews
from tests.groups import with_first


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
        (lambda g: replace(g, prompt_token_ids=g.prompt_token_ids[:-1]), "prompt tokens differ"),
        (lambda g: replace(g, num_prompt_tokens=g.num_prompt_tokens + 1), "engine counted"),
        (
            lambda g: with_first(g, response_token_ids=np.array([20, 99, 20], np.int32)),
            "outside the vocabulary",
        ),
        (
            lambda g: with_first(g, response_token_ids=np.array([20, -1, 20], np.int32)),
            "outside the vocabulary",
        ),
        (
            lambda g: with_first(g, response_token_ids=np.array([20, 5, 20], np.int32)),
            "vision token",
        ),
        (lambda g: with_first(g, finish_reason=FinishReason.ABORT), "aborted"),
        (
            lambda g: replace(g, view=g.view.model_copy(update={"sha256": "0" * 64})),
            r"the rollout saw another view than the learner: full (000000000000...), not full",
        ),
        (
            lambda g: replace(g, view=g.view.model_copy(update={"name": "red_box"})),
            "saw another view than the learner: red_box",
        ),
        (
            lambda g: with_first(
                g, version_spans=(VersionSpan(version=1, start=0, end=3),)
            ),
            "claims version 1",
        ),
        (
            lambda g: replace(g, sample_id="other"),
            "sample other is not in this learner's data.train",
        ),
    ],
)  # fmt: skip
def test_a_bad_group_is_refused_and_the_others_are_kept(world, preparation, make_bad, reason):
    groups = [world.group(0), make_bad(world.group(1)), world.group(2)]
    batch = preparation.prepare(1, groups)
    assert [group.group_id for group in batch.groups] == ["0/0", "0/2"]
    assert list(batch.refused) == ["0/1"] and reason in batch.refused["0/1"]


def test_a_group_whose_picture_is_gone_is_refused(world):
    trainer = world.trainer()
    gone = {"path": "images/missing.png", "sha256": "0" * 64}
    sample = world.samples[1]
    world.samples[1] = sample.model_copy(update={"image": sample.image.model_copy(update=gone)})
    batch = world.preparation(trainer).prepare(1, [world.group(0), other(world.group(0), sample)])
    assert [group.group_id for group in batch.groups] == ["0/0"]
    assert "missing.png" in batch.refused["0/1"]


def other(group: Group, sample: Sample) -> Group:
    """The same of another sample."""
    return replace(group, group_id="0/1", sample_id=sample.sample_id)


def test_a_degraded_view_must_be_drawn_by_the_groups_own_seed(world):
    """The rollout worker makes it so, and the same with the seed of another group."""
    config = world.changed(student={"view": "degraded", "hint": "?"})
    preparation = world.preparation(world.trainer(config), config)
    views = EngineViews(world.renderer, ViewSettings.of(config))

    def group(number: int, seeded_by: str) -> Group:
        made = world.group(number)
        sample = world.samples_by_id[made.sample_id]
        content = world.images.read_bytes(sample.image)
        seed = derived_seed(config.run.seed, seeded_by)
        seen = views.make(sample, "degraded", seed, content)
        ids = world.renderer.prompt_token_ids(seen.problem)
        count = made.num_prompt_tokens + len(ids) - len(made.prompt_token_ids)
        return replace(made, view=seen.record, prompt_token_ids=ids, num_prompt_tokens=count)

    batch = preparation.prepare(1, [group(0, "0/0"), group(1, "0/0")])
    assert [good.group_id for good in batch.groups] == ["0/0"]
    assert re.search(
        r"saw another view .*degraded, seed \d+: \w+ 0.\d\d .* not degraded, seed ",
        batch.refused["0/1"],
    )


@pytest.mark.parametrize("allowed", [0, 2])
def test_the_staleness_guard_counts_from_the_oldest_token(world, allowed):
    config = world.changed(broker={"max_staleness": allowed})
    preparation = world.preparation(world.trainer(config), config)
    mixed = (VersionSpan(version=1, start=0, end=2), VersionSpan(version=3, start=2, end=3))
    group = with_first(world.group(0, version=3), version_spans=mixed)
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
        group = replace(world.group(0), group_id=f"0/{number}")
        batch = world.preparation(trainer, config).prepare(1, [group])
        return batch.groups[0].teacher.pixels.numpy().tobytes()

    assert pixels(config, 0) == pixels(config, 0)
    assert len({pixels(config, 0), pixels(config, 1), pixels(other_seed, 0)}) == 3


def test_views_are_kept_within_their_bytes(world):
    trainer = world.trainer()
    views = world.views(trainer)
    (one,) = views.students(world.samples[:1])
    assert views.students(world.samples[:1])[0] is one
    small = type(views)(
        world.renderer, world.images, ViewSettings.of(world.config), views._positions, one.num_bytes
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
        assert torch.equal(first.pixels, second.pixels)
        assert torch.equal(first.image_grid_thw, second.image_grid_thw)


def test_a_problem_that_cannot_be_rendered_costs_only_itself(world):
    broken = world.samples[1].model_copy(update={"problem": "no placeholder", "sample_id": "x"})
    views = world.views(world.trainer()).students([world.samples[0], broken, world.samples[2]])
    assert [isinstance(view, DataError) for view in views] == [False, True, False]


# ---- the answer hint (OPSD) ----------------------------------------------------------------------
def hinted_views(world, answers: Answers, trainer=None) -> PromptViews:
    hint = {"view": "answer_hint", "answer_hint": " the tag is {answer} ?"}
    settings = ViewSettings.of(world.changed(teacher=hint))
    positions = functools.partial(prompt_positions, (trainer or world.trainer()).model)
    return PromptViews(world.renderer, world.images, settings, positions, answers=answers)


def test_the_answer_hint_follows_the_question_and_leaves_the_picture(world):
    answers = read_answers(world.config.data.train)
    (student,) = hinted_views(world, answers).students(world.samples[3:4])
    (teacher,) = hinted_views(world, answers).teachers(world.samples[3:4], [0])
    assert torch.equal(student.pixels, teacher.pixels)
    hint = world.renderer.tokenizer(" the tag is 3 ?", add_special_tokens=False)["input_ids"]
    text = teacher.input_ids.tolist()
    tail = len(student.input_ids) - student.input_ids.tolist()[::-1].index(
        world.renderer.tokenizer.convert_tokens_to_ids("?")
    )  # just after the question
    assert text == [*student.input_ids[:tail].tolist(), *hint, *student.input_ids[tail:].tolist()]
    assert teacher.position_ids.shape == (3, len(text))


def test_a_sample_without_an_answer_is_refused_and_the_others_are_kept(world):
    answers = read_answers(world.config.data.train)
    del answers["s1"]
    trainer = world.trainer()
    vocabulary = trainer.model.get_output_embeddings().weight.shape[0]
    views = hinted_views(world, answers, trainer)
    preparation = Preparation(world.config, world.renderer, views, vocabulary, world.samples_by_id)
    batch = preparation.prepare(1, [world.group(0), world.group(1), world.group(2)])
    assert [group.group_id for group in batch.groups] == ["0/0", "0/2"]
    reason = batch.refused["0/1"]
    assert "sample s1 has no answer" in reason and str(world.config.data.train) in reason


def test_an_answer_with_a_second_picture_costs_only_itself(world):
    answers = Answers({"s0": "a <image> b", "s1": "<|image_pad|>", "s2": "2"})
    found = hinted_views(world, answers).teachers(world.samples[:3], [0] * 3)
    assert [isinstance(view, DataError) for view in found] == [True, True, False]


def test_no_answer_is_read_unless_the_option_asks_for_it(world, monkeypatch):
    monkeypatch.setattr("learner.views.training.read_answers", lambda path: 1 / 0)
    assert training_answers(world.config) == {}
    with pytest.raises(ZeroDivisionError):
        training_answers(world.changed(teacher={"view": "answer_hint"}))


def test_a_dataset_without_any_answer_cannot_give_hints(world, tmp_path):
    table = pq.read_table(world.config.data.train)
    nothing = pa.nulls(len(table), pa.string())
    table = table.set_column(table.column_names.index("answer"), "answer", nothing)
    pq.write_table(table, tmp_path / "bare.parquet")
    config = world.changed(
        teacher={"view": "answer_hint"}, data={"train": tmp_path / "bare.parquet"}
    )
    with pytest.raises(ConfigError, match=r"answer_hint needs answers.*bare\.parquet.*Fix:"):
        training_answers(config)


# ---- the contrast view (VA-OPD) ------------------------------------------------------------------
def weighted(world, **teacher):
    objective = {"token_weights": "visual_advantage", "visual_advantage_pixels": 8}
    return world.changed(objective=objective, teacher=teacher)


def test_the_contrast_view_is_the_teachers_without_detail(world):
    trainer = world.trainer()
    config = weighted(world)
    positions = functools.partial(prompt_positions, trainer.model)
    vocabulary = trainer.model.get_output_embeddings().weight.shape[0]
    with open_training_views(config, world.renderer, positions) as views:
        preparation = Preparation(config, world.renderer, views, vocabulary, world.samples_by_id)
        (group,) = preparation.prepare(1, [world.group(0)]).groups
    contrast, teacher = group.contrast, group.teacher
    assert contrast.input_ids.tolist() == teacher.input_ids.tolist()
    assert torch.equal(contrast.position_ids, teacher.position_ids)
    assert torch.equal(contrast.image_grid_thw, teacher.image_grid_thw)
    # The patches are 8 x 8, the squares too: each patch has one colour a channel.
    flat, detail = (
        view.patching.patches([view.pixels], torch.float32).view(-1, 3, 2 * 8 * 8)
        for view in (contrast, teacher)
    )
    assert torch.equal(flat.amax(-1), flat.amin(-1))
    assert (detail.amax(-1) - detail.amin(-1)).min() > 0.1


def test_without_the_option_there_is_no_contrast_view(world, preparation):
    (group,) = preparation.prepare(1, [world.group(0)]).groups
    assert group.contrast is None
    with pytest.raises(ValueError, match="contrast_pixels"):
        world.views(world.trainer()).contrasts(world.samples[:1], [0])


def test_views_without_contrast_are_refused_where_it_is_needed(world):
    views = world.views(world.trainer())
    with pytest.raises(ValueError, match="visual_advantage needs contrast views"):
        Preparation(weighted(world), world.renderer, views, 30, {})


def test_a_contrast_of_a_random_crop_is_of_the_same_crop(world):
    config = weighted(world, view="random_crop", crop_scale=1.0)
    positions = functools.partial(prompt_positions, world.trainer().model)
    with open_training_views(config, world.renderer, positions) as views:
        contrasts = views.contrasts([world.samples[0]] * 3, [1, 1, 2])
    assert torch.equal(contrasts[0].pixels, contrasts[1].pixels)
    assert not torch.equal(contrasts[0].pixels, contrasts[2].pixels)


# ---- what comes next -----------------------------------------------------------------------------
def test_the_next_samples_are_those_of_the_brokers_source(world):
    source = SampleSource(world.samples, epochs=2, shuffle=True, seed=3)
    upcoming = UpcomingSamples(source, run_seed=3, groups_per_step=4)
    expected = [source.at(index) for index in range(24)]
    at_start = upcoming.after(0)
    assert at_start.samples == [a.sample for a in expected[:8]]
    assert at_start.seeds == [derived_seed(3, a.group_id) for a in expected[:8]]
    assert upcoming.after(2).samples == [a.sample for a in expected[8:16]]
    assert upcoming.after(2, expected[9].group_id).samples == [a.sample for a in expected[10:18]]
    assert upcoming.after(5, expected[20].group_id).samples == [a.sample for a in expected[21:]]
    assert upcoming.after(6, expected[23].group_id).samples == []


def test_a_rank_foresees_all_of_the_next_step_whatever_share_of_the_last_it_had(world):
    source = SampleSource(world.samples, epochs=9, shuffle=True, seed=3)
    upcoming = UpcomingSamples(source, run_seed=3, groups_per_step=12)
    rng = np.random.default_rng(0)
    for step, quarantined, ranks in itertools.product((1, 2, 5), (0, 1, 7), (2, 3, 5, 12)):
        start = (step - 1) * 12 + quarantined  # so many of earlier ones are not trained on
        following = {derived_seed(3, source.at(start + n).group_id) for n in range(12, 24)}
        for share in split_by_load(rng.integers(1, 1000, 12).tolist(), ranks):
            window = upcoming.after(step, source.at(start + share[-1]).group_id)
            assert following <= set(window.seeds) and len(window.seeds) == 24
            if not quarantined:
                assert following == set(window.seeds[:12])


def test_a_batch_lets_its_successors_be_rendered(world):
    class Noting(PromptViews):
        def look_ahead(self, samples, seeds):
            asked.append(([s.sample_id for s in samples], list(seeds)))

    asked = []
    config = world.changed(learner={"groups_per_step": 2}, data={"shuffle": False, "epochs": 2})
    trainer = world.trainer()
    positions = functools.partial(prompt_positions, trainer.model)
    views = Noting(world.renderer, world.images, ViewSettings.of(config), positions)
    vocabulary = trainer.model.get_output_embeddings().weight.shape[0]
    upcoming = UpcomingSamples(foreseen_source(config), config.run.seed, 2)
    preparation = Preparation(
        config, world.renderer, views, vocabulary, world.samples_by_id, upcoming
    )
    preparation.look_ahead(3)
    preparation.prepare(1, [world.group(9), world.group(10)])
    assert [names for names, _ in asked] == [
        ["s6", "s7", "s8", "s9"],
        ["s11", "s0", "s1", "s2"],  # into the next epoch
    ]
    assert asked[1][1] == [
        derived_seed(3, f"{e}/{p}") for e, p in ((0, 11), (1, 0), (1, 1), (1, 2))
    ]


def test_expected_views_are_the_last_to_go(world):
    (view,) = world.views(world.trainer()).students(world.samples[:1])
    cache = ViewCache(3 * view.num_bytes)
    keys = [("s", "student", number) for number in range(6)]

    def put(number: int) -> None:
        cache.put(keys[number], dataclasses.replace(view))

    def held() -> list[int]:
        return [number for number, key in enumerate(keys) if key in cache]

    cache.expect(keys[:2])
    assert cache.has_room_for(3)
    for number in range(5):
        put(number)
    assert held() == [0, 1, 4]
    assert cache.has_room_for(1) and not cache.has_room_for(2)
    assert cache.take(keys[0]) is not None and cache.has_room_for(2)
    put(5)
    assert held() == [0, 1, 5]  # 4 was used longer ago than 0
    put(3)
    assert held() == [1, 3, 5]
    assert cache.take(keys[0]) is None
    put(1)  # once more: it counts once
    cache.expect([])
    assert cache.has_room_for(3) and held() == [1, 3, 5]


def test_the_cache_holds_eight_times_the_pictures_that_it_could_as_model_inputs():
    """Pictures of the published size; ids and positions take 1 % of a view."""
    patching = Patching(torch.zeros(3, 256), side=16, merge=2, frames=2)
    pixels, ids = torch.zeros(47 * 32, 70 * 32, 3, dtype=torch.uint8), torch.arange(3290 + 76)
    view = PromptView(ids, ids.expand(3, -1).clone(), pixels, torch.zeros(1, 3).long(), patching)
    assert patching.patches([pixels], torch.float32).nbytes == 8 * pixels.nbytes
    limit_bytes = LearnerSection().render_ahead_mib * 2**20
    cache = ViewCache(limit_bytes)
    keys = [(f"s{number}", "student", 0) for number in range(120)]
    for key in keys:
        cache.put(key, view)
    assert sum(key in cache for key in keys) == 105  # more than the 96 groups of a step
    assert limit_bytes // (view.num_bytes + 7 * pixels.nbytes) == 13


def test_a_view_larger_than_the_cache_is_not_kept(world):
    (view,) = world.views(world.trainer()).students(world.samples[:1])
    assert isinstance(view, PromptView)
    cache = ViewCache(view.num_bytes - 1)
    cache.expect([("s", "student", 0)])
    cache.put(("s", "student", 0), view)
    assert ("s", "student", 0) not in cache and not cache.has_room_for(1)


def test_images_are_rendered_by_processes_beside_a_gpu_unless_told_otherwise():
    for configured, device, expected in ((None, "cuda", 4), (None, "cpu", 0), (2, "cpu", 2)):
        section = LearnerSection(render_processes=configured)
        assert render_processes(section, torch.device(device)) == expected
