import numpy as np
import pytest
import torch

from learner.measuring.evaluation import (
    Accuracy,
    Evaluation,
    end_token_ids,
    gap_closed,
    is_correct,
    last_word,
)


@pytest.mark.parametrize(
    "text, word",
    [
        ("the digit is 7", "7"),
        ("A.", "a"),
        ("Answer: (B)\n", "b"),
        ("", ""),
        ("?!", ""),
        ("x_1", "1"),
    ],
)
def test_last_word_is_the_last_run_of_letters_and_digits(text, word):
    assert last_word(text) == word


def test_an_answer_is_correct_by_its_last_word_alone():
    assert is_correct("It is SEVEN.", "seven")
    assert not is_correct("7 or 8", "7")
    assert not is_correct("", "7")
    assert not is_correct("", "?")


def test_gap_closed_is_a_share_of_the_gap_before():
    before = Accuracy(full=0.4, crop=0.9, samples=10)
    assert gap_closed(before, Accuracy(full=0.65, crop=0.9, samples=10)) == pytest.approx(0.5)
    assert gap_closed(before, Accuracy(full=0.3, crop=0.9, samples=10)) == pytest.approx(-0.2)
    assert gap_closed(Accuracy(0.9, 0.9, 10), before) is None


@pytest.fixture
def evaluation(world):
    trainer = world.trainer()
    answers = {sample.sample_id: "7" for sample in world.samples}
    made = Evaluation(world.renderer, world.views(trainer), world.samples, answers, 4)
    return made, trainer.model


def greedy(model, view, banned, limit: int) -> list[int]:
    """One sequence, token by token, without a cache."""
    ids = view.input_ids[None]
    found: list[int] = []
    while len(found) < limit and (not found or found[-1] not in end_token_ids(model)):
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                mm_token_type_ids=(ids == model.config.image_token_id).long(),
                pixel_values=view.pixel_values,
                image_grid_thw=view.image_grid_thw,
                use_cache=False,
            ).logits[0, -1]
        logits[banned] = float("-inf")
        found.append(int(logits.argmax()))
        ids = torch.cat([ids, torch.tensor([[found[-1]]])], dim=1)
    return found


def test_responses_equal_greedy_decoding_one_by_one(world, evaluation):
    made, model = evaluation
    prompts = world.views(world.trainer()).students(world.samples)
    responses = made.responses(model, prompts)
    expected = [greedy(model, p, world.renderer.vision_token_ids, 4) for p in prompts]
    assert [ids.tolist() for ids in responses] == expected
    assert model.training  # as it was


def test_accuracy_counts_right_answers_of_each_view(world, evaluation):
    made, model = evaluation
    views = world.views(world.trainer())
    full = made.responses(model, views.students(world.samples))
    answers = {
        sample.sample_id: world.renderer.decode(ids) if number % 3 else "wrong"
        for number, (sample, ids) in enumerate(zip(world.samples, full, strict=True))
    }
    made = Evaluation(world.renderer, views, world.samples, answers, 4)
    words = [last_word(world.renderer.decode(ids)) != "" for ids in full]
    expected = sum(number % 3 != 0 and word for number, word in enumerate(words))
    accuracy = made.measure(model, 0)
    assert accuracy.samples == len(world.samples)
    assert accuracy.full == pytest.approx(expected / len(world.samples))
    assert 0 <= accuracy.crop <= 1
    assert made.measure(model, 5).samples == 5


def test_samples_without_answers_are_not_measured(world, evaluation):
    _, model = evaluation
    views = world.views(world.trainer())
    only = Evaluation(world.renderer, views, world.samples, {"s3": "1"}, 4)
    assert [sample.sample_id for sample in only.samples] == ["s3"]
    assert Evaluation(world.renderer, views, world.samples, {}, 4).measure(model, 0) is None


def test_a_stop_abandons_the_measurement(evaluation):
    made, model = evaluation
    assert made.measure(model, 0, should_stop=lambda: True) is None
    assert model.training


def test_responses_end_with_their_first_end_token(world, evaluation, monkeypatch):
    made, model = evaluation
    end = end_token_ids(model)[0]
    views = world.views(world.trainer())
    prompts = views.students(world.samples[:1])

    def generate(**inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([inputs["input_ids"], torch.tensor([[20, end, 0, 0]])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    (response,) = made.responses(model, prompts)
    assert np.array_equal(response, [20, end])
