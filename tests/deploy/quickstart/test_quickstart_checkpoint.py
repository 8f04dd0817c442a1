"""The checkpoint that ships, and the script that makes it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.quickstart import pretrain
from deploy.quickstart.lessons import (
    LESSONS,
    Exercise,
    evidence_crop,
    full_image,
    single_tag,
    tag_pair,
)
from deploy.quickstart.measure import measure_checkpoint
from deploy.quickstart.model import make_model
from deploy.quickstart.processor import make_processor
from deploy.quickstart.scenes import CROP_SIDE, TAG_SIDE, World
from deploy.quickstart.teaching import NOT_LEARNT, Teaching

SHIPPED = Path(pretrain.__file__).parent / "checkpoint"
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def world() -> World:
    return World("train")


def test_shipped_checkpoint_is_small() -> None:
    sizes = [path.stat().st_size for path in SHIPPED.iterdir()]
    assert sum(sizes) <= 5 * MEBIBYTE
    assert max(sizes) < 3 * MEBIBYTE


def test_shipped_checkpoint_reads_crops_far_better_than_full_images() -> None:
    reading = measure_checkpoint(SHIPPED, num_scenes=100, seed=11)
    assert reading.crop >= 0.87  # >= 0.9 on many scenes; this is a sample of 100
    assert 0.33 <= reading.full <= 0.67  # 0.4 to 0.6 on many scenes
    assert reading.crop - reading.full >= 0.2


def test_shipped_checkpoint_says_how_it_was_made_and_how_well_it_reads() -> None:
    record = json.loads((SHIPPED / "pretraining.json").read_text())
    assert record["heldout"]["scenes"] >= 400
    assert record["heldout"]["crop"] >= 0.9
    assert 0.4 <= record["heldout"]["full"] <= 0.6
    assert [lesson["name"] for lesson in record["lessons"]] == [x.name for x in LESSONS]


def test_shipped_checkpoint_ends_its_answers_at_the_end_of_turn() -> None:
    from transformers import GenerationConfig

    processor = make_processor()
    stored = GenerationConfig.from_pretrained(SHIPPED)
    assert processor.tokenizer.eos_token_id in stored.eos_token_id
    assert stored.pad_token_id == processor.tokenizer.pad_token_id


def test_lessons_show_what_they_say(world: World) -> None:
    rng = np.random.default_rng(0)
    assert single_tag(world, rng).pixels.shape == (TAG_SIDE, TAG_SIDE, 3)
    pair = tag_pair(world, rng)
    assert pair.pixels.shape == (TAG_SIDE, 2 * TAG_SIDE, 3)
    assert pair.tags[0].color != pair.tags[1].color
    assert evidence_crop(world, rng).pixels.shape == (CROP_SIDE, CROP_SIDE, 3)


def test_questions_that_share_an_image_give_the_same_logits_as_alone(world: World) -> None:
    processor = make_processor()
    model = make_model(processor.tokenizer, seed=0)
    teaching = Teaching(processor.tokenizer, model)
    view = tag_pair(world, np.random.default_rng(0))
    two = Exercise(tag_pair, views=1, questions_per_view=2)
    together = _hidden(model, teaching.batch([view], two, np.random.default_rng(1)))
    for number in range(2):
        asked = view.tags[np.random.default_rng(1).permutation(2)[number]]
        alone = teaching.batch(
            [replace(view, tags=(asked,))],
            replace(two, questions_per_view=1),
            np.random.default_rng(1),
        )
        torch.testing.assert_close(
            together[number * 7 : (number + 1) * 7], _hidden(model, alone), atol=1e-5, rtol=1e-4
        )


def _hidden(model: torch.nn.Module, batch: pretrain.Batch) -> torch.Tensor:
    with torch.no_grad():
        hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state
    return hidden[batch.labels != NOT_LEARNT]


def test_a_colorless_question_is_answered_with_the_color(world: World) -> None:
    processor = make_processor()
    model = make_model(processor.tokenizer, seed=0)
    view = single_tag(world, np.random.default_rng(0))
    batch = Teaching(processor.tokenizer, model).batch(
        [view], LESSONS[0].exercises[0], np.random.default_rng(1)
    )
    learnt = batch.labels[0][batch.labels[0] != NOT_LEARNT]
    reply = f"The {view.tags[0].color} tag shows {view.tags[0].digit}.<|im_end|>"
    assert processor.tokenizer.decode(learnt) == reply * 2
    assert processor.tokenizer.decode(batch.inputs["input_ids"][0]).count(
        f"the {view.tags[0].color} tag?"
    ) == (1)
    assert int(batch.is_digit.sum()) == 1


def test_no_lesson_tells_a_digit_in_a_full_image(world: World) -> None:
    exercises = [exercise for lesson in LESSONS for exercise in lesson.exercises]
    processor = make_processor()
    teaching = Teaching(processor.tokenizer, make_model(processor.tokenizer, seed=0))
    digits = {processor.tokenizer(f" {digit}")["input_ids"][0] for digit in range(10)}
    on_full_images = [e for e in exercises if e.draw is full_image]
    assert on_full_images
    for exercise in exercises:
        rng = np.random.default_rng(0)
        batch = teaching.batch([exercise.draw(world, rng)], exercise, rng)
        assert bool(digits & set(batch.labels.flatten().tolist())) == (
            exercise not in on_full_images
        )


def test_pretraining_learns_and_repeats_itself(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson = replace(LESSONS[0], steps=3, exercises=(Exercise(single_tag, 4, 2, True),))
    processor = make_processor()
    models = []
    for _ in range(2):
        model = make_model(processor.tokenizer, seed=0)
        pretrain.teach(model, Teaching(processor.tokenizer, model), lesson, world, seed=0)
        models.append(model.state_dict())
    start = make_model(processor.tokenizer, seed=0).state_dict()
    assert all(torch.equal(models[0][name], models[1][name]) for name in start)
    assert any(not torch.equal(models[0][name], start[name]) for name in start)
