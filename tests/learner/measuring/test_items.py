"""RUN/heldout: what a measurement asked and was answered, and that nothing depends on it."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from broker.protocol import Answer
from learner.measuring.evaluation import Accuracy, Evaluation
from learner.measuring.items import ItemFiles


def answers_of(world, texts: list[str]) -> dict[int, Answer]:
    tokens = [world.renderer.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    arrays = [np.asarray(ids, dtype=np.int32) for ids in tokens]
    return {index: Answer(index=index, token_ids=ids) for index, ids in enumerate(arrays)}


@pytest.fixture
def word(world) -> str:
    return world.renderer.decode([20]).strip()


def lines(folder, step: int) -> list[dict]:
    path = folder / "heldout" / f"step-{step:06d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_sample_is_a_line_with_both_answers_and_whether_they_are_right(
    world, word, dataset, tmp_path
):
    files = ItemFiles(tmp_path, 0, dataset)
    known = {sample.sample_id: word for sample in world.samples if sample.sample_id != "s0"}
    evaluation = Evaluation(world.renderer, world.samples, known, files)
    answers = answers_of(world, [word, word, word, "x", word, word])
    answers[5] = Answer(index=5, token_ids=np.zeros(0, dtype=np.int32), error="no such file")
    found = evaluation.accuracy(evaluation.questions(2, num_shown=1), answers, version=4)
    assert found == Accuracy(1.0, 0.0, samples=1, version=4)
    right = {"text": world.renderer.decode([20]), "is_correct": True}
    question = world.samples[0].problem.replace("<image>", "").strip()
    first, second, third = lines(tmp_path, 4)
    assert first == {
        "sample_id": "s0", "set": "samples", "question": question, "answer": None,
        "full": {**right, "is_correct": None}, "crop": {**right, "is_correct": None},
    }  # fmt: skip

    assert second["full"] == right and second["answer"] == word
    assert second["crop"]["is_correct"] is False
    assert third["full"] == right and third["crop"] is None


def test_a_column_of_the_data_names_the_sets(dataset, tmp_path):
    table = pq.read_table(dataset)
    sets = ["near", "far", None, *["far"] * (table.num_rows - 3)]
    path = tmp_path / "some.parquet"
    pq.write_table(table.append_column("category", pa.array(sets)), path)
    files = ItemFiles(tmp_path, 0, path)
    files.write(1, ({"sample_id": f"s{number}"} for number in range(3)))
    assert [line["set"] for line in lines(tmp_path, 1)] == ["near", "far", "some"]


def test_files_of_undone_steps_are_removed_and_no_others(dataset, tmp_path):
    files = ItemFiles(tmp_path, 0, dataset)
    for step in (0, 2, 4, 1_000_000):
        files.write(step, [{"sample_id": "s0"}])
    (tmp_path / "heldout" / "notes.jsonl").touch()
    ItemFiles(tmp_path, 2, dataset)
    assert sorted(os.listdir(tmp_path / "heldout")) == [
        "notes.jsonl", "step-000000.jsonl", "step-000002.jsonl",
    ]  # fmt: skip


def test_no_more_is_kept_than_the_limit_and_all_are_counted(world, word, dataset, tmp_path):
    files = ItemFiles(tmp_path, 0, dataset, limit=2)
    known = dict.fromkeys((sample.sample_id for sample in world.samples), word)
    evaluation = Evaluation(world.renderer, world.samples, known, files)
    answers = answers_of(world, [word] * 8)
    found = evaluation.accuracy(evaluation.questions(4), answers, version=0)
    assert found is not None and found.samples == 4 and found.full == 1.0
    assert len(lines(tmp_path, 0)) == 2


def test_a_folder_that_cannot_be_written_costs_a_line_in_the_log(
    world, word, dataset, tmp_path, caplog
):
    (tmp_path / "heldout").write_text("a file where the folder should be")
    files = ItemFiles(tmp_path, 0, dataset)
    known = dict.fromkeys((sample.sample_id for sample in world.samples), word)
    evaluation = Evaluation(world.renderer, world.samples, known, files)
    answers = answers_of(world, [word] * 8)
    for version in (0, 1):
        found = evaluation.accuracy(evaluation.questions(4), answers, version)
        assert found is not None and found.samples == 4
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "are not kept" in told[0]


def test_a_full_disk_leaves_no_half_file(dataset, tmp_path, caplog):
    files = ItemFiles(tmp_path, 0, dataset)

    def items():
        yield {"sample_id": "s0"}
        raise OSError(28, "No space left on device")

    files.write(3, items())
    assert list((tmp_path / "heldout").iterdir()) == []
    assert "No space left" in caplog.text
