import functools
import json
import shutil
import weakref

import numpy as np
import pytest
import torch

from common.end_tokens import end_token_ids_of
from common.rendering import Renderer
from common.scoring.answers import is_correct
from learner.measuring import evaluation as evaluation_module
from learner.measuring.evaluation import Accuracy, Evaluation, gap_closed
from learner.measuring.greedy import is_cut
from learner.model.student import load_student, prompt_positions
from learner.views.prompts import PromptViews


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


def greedy(model, view, renderer, limit: int) -> list[int]:
    """One sequence, token by token, without a cache."""
    ids, ends = view.input_ids[None], end_token_ids_of(model, renderer.tokenizer)
    found: list[int] = []
    while len(found) < limit and (not found or found[-1] not in ends):
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                mm_token_type_ids=(ids == model.config.image_token_id).long(),
                pixel_values=view.pixel_values,
                image_grid_thw=view.image_grid_thw,
                use_cache=False,
            ).logits[0, -1]
        logits[renderer.vision_token_ids] = float("-inf")
        found.append(int(logits.argmax()))
        ids = torch.cat([ids, torch.tensor([[found[-1]]])], dim=1)
    return found


def test_responses_equal_greedy_decoding_one_by_one(world, evaluation):
    made, model = evaluation
    prompts = world.views(world.trainer()).students(world.samples)
    responses = made.responses(model, prompts)
    expected = [greedy(model, p, world.renderer, 4) for p in prompts]
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
    expected = sum(
        is_correct(world.renderer.decode(ids), answers[sample.sample_id])
        for sample, ids in zip(world.samples, full, strict=True)
    )
    assert expected >= len(world.samples) / 2
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
    end = end_token_ids_of(model, world.renderer.tokenizer)[0]
    views = world.views(world.trainer())
    prompts = views.students(world.samples[:1])

    def generate(**inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([inputs["input_ids"], torch.tensor([[20, end, 0, 0]])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    (response,) = made.responses(model, prompts)
    assert np.array_equal(response, [20, end])


# ---- what a checkpoint's folder says -------------------------------------------------------------
HOSTILE = {
    "do_sample": True,
    "temperature": 3.0,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.2,
    "repetition_penalty": 1.9,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 3,
    "min_length": 3,
    "max_length": 5,
    "bad_words_ids": [[20], [21]],
    "sequence_bias": [[[22], -50.0]],
    "suppress_tokens": [23, 24],
    "begin_suppress_tokens": [25, 26],
    "forced_bos_token_id": 19,
    "forced_eos_token_id": 27,
    "exponential_decay_length_penalty": [1, 3.0],
    "num_beams": 3,
    "num_return_sequences": 2,
    "renormalize_logits": True,
    "guidance_scale": 2.0,
    "return_dict_in_generate": True,
    "output_scores": True,
    "stop_strings": ["7"],
    "cache_implementation": "static",
    "an_entry_of_their_own": 5,
}


def from_folder(
    world, folder, generation: dict[str, object], text: dict[str, object] | None = None
):
    """The student of the world's checkpoint with other settings in its folder."""
    shutil.copytree(world.config.model.path, folder)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text or {}
    (folder / "config.json").write_text(json.dumps(config))
    section = world.config.model.model_copy(update={"path": str(folder)})
    return load_student(section, torch.device("cpu"))


def texts(world, model, limit: int = 8) -> list[list[int]]:
    views = world.views(world.trainer())
    made = Evaluation(world.renderer, views, world.samples, {}, limit)
    found = made.responses(model, views.students(world.samples))
    return [ids.tolist() for ids in found]


def test_sampling_settings_of_the_folder_do_not_change_what_is_measured(world, tmp_path):
    plain = texts(world, world.trainer().model)
    repeated = [ids for ids in plain if len(set(ids)) < len(ids)]
    assert repeated  # else a penalty on repetition would change nothing
    hostile = from_folder(world, tmp_path / "hostile", HOSTILE)
    assert hostile.generation_config.repetition_penalty == 1.9
    assert texts(world, hostile) == plain
    assert hostile.generation_config.repetition_penalty == 1.9  # a checkpoint keeps it


@pytest.mark.parametrize("generation", [{}, {"eos_token_id": None}, {"eos_token_id": [0, 2]}])
@pytest.mark.parametrize("text", [{}, {"eos_token_id": None}, {"eos_token_id": 3}])
def test_a_response_ends_at_any_end_token_that_is_named(world, tmp_path, generation, text):
    model = from_folder(world, tmp_path / "model", generation, text)
    own = world.renderer.tokenizer.eos_token_id
    named = generation.get("eos_token_id") or []
    config = json.loads((tmp_path / "model" / "config.json").read_text())["text_config"]
    ends = end_token_ids_of(model, world.renderer.tokenizer)
    assert set(ends) == {own, *named, config["eos_token_id"]} - {None}
    for ids in texts(world, model):
        assert not set(ids[:-1]) & set(ends)
        assert len(ids) == 8 or ids[-1] in ends


def test_a_response_may_end_at_a_token_that_only_the_tokenizer_names(world, tmp_path):
    model = from_folder(world, tmp_path / "m", {"eos_token_id": None}, {"eos_token_id": None})
    (first, *_), *_ = texts(world, model)
    path = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["eos_token"] = world.renderer.token_texts([first])[0]
    path.write_text(json.dumps(settings))
    renderer = Renderer(str(tmp_path / "m"))
    assert end_token_ids_of(model, renderer.tokenizer) == [first]
    made = Evaluation(renderer, world.views(world.trainer()), world.samples, {}, 8)
    (response, *_) = made.responses(model, world.views(world.trainer()).students(world.samples))
    assert response.tolist() == [first]


# ---- cut answers ---------------------------------------------------------------------------------
def test_an_answer_without_an_end_token_is_cut():
    assert is_cut(np.array([5, 6]), [2, 0]) and is_cut(np.array([], dtype=np.int64), [2])
    assert not is_cut(np.array([5, 2]), [2, 0])
    assert is_cut(np.array([5]), [])


def test_cut_answers_are_counted_for_each_view(world, evaluation, monkeypatch):
    made, model = evaluation
    end = end_token_ids_of(model, world.renderer.tokenizer)[0]
    views = iter([[end, 0], [20, end], [20, 21]] * 8)  # every third is cut

    def generate(input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        rows = torch.tensor([next(views) for _ in input_ids])
        return torch.cat([input_ids, rows], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    accuracy = made.measure(model, 0)
    assert accuracy.samples == 12
    assert accuracy.full_cut == accuracy.crop_cut == pytest.approx(1 / 3)


# ---- bounded memory ------------------------------------------------------------------------------
class CountedViews(PromptViews):
    """Knows how many of the views that it gave are still held by somebody."""

    alive = most = 0

    def students(self, samples):
        return self._counted(super().students(samples))

    def teachers(self, samples, seeds):
        return self._counted(super().teachers(samples, seeds))

    def _counted(self, views):
        for view in views:
            self.alive += 1
            weakref.finalize(view, self._drop)
        self.most = max(self.most, self.alive)
        return views

    def _drop(self):
        self.alive -= 1


@pytest.mark.parametrize("num_samples", [16, 48])
def test_views_alive_at_once_do_not_grow_with_the_heldout_set(world, monkeypatch, num_samples):
    trainer = world.trainer()
    positions = functools.partial(prompt_positions, trainer.model)
    views = CountedViews(
        world.renderer, world.images, world.config.teacher, positions, cache_bytes=0
    )
    samples = [
        sample.model_copy(update={"sample_id": f"{number}-{sample.sample_id}"})
        for number in range(num_samples // 8)
        for sample in world.samples[:8]
    ]
    answers = {sample.sample_id: "7" for sample in samples}
    (student,) = world.views(trainer).students(samples[:1])
    monkeypatch.setattr(evaluation_module, "WINDOW_BYTES", 10 * student.num_bytes)
    made = Evaluation(world.renderer, views, samples, answers, 2)
    assert made.measure(trainer.model, 0).samples == num_samples
    assert 10 <= views.most <= 24 and views.alive == 0


def test_windows_of_any_size_measure_the_same(world, evaluation, monkeypatch):
    made, model = evaluation
    whole = made.measure(model, 0)
    monkeypatch.setattr(evaluation_module, "WINDOW_BYTES", 1)
    assert made.measure(model, 0) == whole
