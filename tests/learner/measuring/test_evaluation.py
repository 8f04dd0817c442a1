import numpy as np
import pytest

from broker.protocol import Answer
from learner.measuring.evaluation import Accuracy, Evaluation, gap_closed


def test_gap_closed_is_a_share_of_the_gap_before():
    before = Accuracy(full=0.4, crop=0.9, samples=10)
    assert gap_closed(before, Accuracy(full=0.65, crop=0.9, samples=10)) == pytest.approx(0.5)
    assert gap_closed(before, Accuracy(full=0.3, crop=0.9, samples=10)) == pytest.approx(-0.2)
    assert gap_closed(Accuracy(0.9, 0.9, 10), before) is None


def answer(world, index: int, text: str, is_cut: bool = False) -> Answer:
    ids = world.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Answer(index=index, token_ids=np.asarray(ids, dtype=np.int32), is_cut=is_cut)


@pytest.fixture
def evaluation(world) -> Evaluation:
    """Samples s0 to s11, whose reference answers are a word that the tokenizer knows."""
    known = world.renderer.decode([20]).strip()
    return Evaluation(world.renderer, world.samples, dict.fromkeys(names(world), known))


def names(world) -> list[str]:
    return [sample.sample_id for sample in world.samples]


def test_accuracy_counts_right_and_cut_answers_of_each_view(world, evaluation):
    right = world.renderer.decode([20])
    questions = evaluation.questions(4)
    answers = {
        2 * number + view: answer(
            world,
            2 * number + view,
            right if number >= (2 - view) else "",  # two of the full ones, three of the crops
            is_cut=view == 0 and number == 0,
        )
        for number in range(4)
        for view in (0, 1)
    }
    found = evaluation.accuracy(questions, answers, version=7)
    assert found == Accuracy(0.5, 0.75, samples=4, full_cut=0.25, crop_cut=0.0, version=7)


def test_a_sample_that_cannot_be_asked_is_left_out_and_told_once(world, evaluation, caplog):
    right = world.renderer.decode([20])
    answers = {index: answer(world, index, right) for index in range(6)}
    no_tokens = np.zeros(0, dtype=np.int32)
    answers[3] = Answer(index=3, token_ids=no_tokens, error="image x.png: no such file")
    questions = evaluation.questions(3)
    for _ in range(2):
        assert evaluation.accuracy(questions, answers, 0) == Accuracy(1.0, 1.0, samples=2)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "s1 left out: image x.png: no such file" in line
    assert evaluation.accuracy(questions, {}, 0) is None


def test_shown_samples_come_first_and_count_only_if_they_have_an_answer(world):
    evaluation = Evaluation(world.renderer, world.samples, {"s1": "7", "s2": "7", "s3": "7"})
    questions = evaluation.questions(2, num_shown=2)
    assert [sample.sample_id for sample in questions.samples] == ["s0", "s1", "s2"]
    assert list(questions.shown_items) == [0, 1, 2, 3] and questions.num_items == 6
    assert questions.counted == {"s1", "s2"}
    answers = {index: answer(world, index, "7") for index in range(6)}
    found = evaluation.accuracy(questions, answers, 0)
    assert found is not None and found.samples == 2
    no_tokens = np.zeros(0, dtype=np.int32)
    assert evaluation.judged(world.samples[0], no_tokens)["is_correct"] is None


def test_samples_without_answers_are_not_measured(world):
    only = Evaluation(world.renderer, world.samples, {"s3": "1"})
    assert [sample.sample_id for sample in only.samples] == ["s3"]
    assert only.questions(0).num_items == 2
    assert Evaluation(world.renderer, world.samples, {}).questions(0).num_items == 0
