"""rollout.evaluation.paper_table: the paper's numbers as printed, and ours beside them."""

from pathlib import Path
from typing import Any

import pytest

from rollout.evaluation.paper_table import (
    _OTHERS,
    _TABLE_1,
    _TABLE_2,
    _rows,
    paper_scores,
    paper_table,
)
from rollout.evaluation.stored_result import read_result
from tests.rollout.evaluation.stored_results import items, make_result, write_result

V1 = ("vstar", "zoombench", "hrbench-4k", "hrbench-8k", "mme-realworld-lite", "mme-realworld-cn")
V2 = tuple(name.removesuffix("-lite") for name in V1)
AVERAGES = {  # as printed; a mistyped score would not average to them
    "DeepEyes-7B": (66.24, V1),
    "Thyme-7B": (66.01, V1),
    "DeepEyesV2": (65.82, V1),
    "SenseNova-MARS-8B": (69.01, V1),
    "GPT-5.2": (67.55, V1),
    "GPT-5.4": (68.42, V1),
    "Gemini-3.1-Pro": (74.74, V1),
    "Qwen3.5-4B": (66.00, V1),
    "Qwen3.5-9B": (69.16, V1),
    "MiMo-VL-RL-7B": (61.20, V1),
    "Qwen3-VL-8B": (65.63, V1),
    "ZwZ-8B": (72.08, V1),
    "MiniCPM-V-4.5": (58.06, V1),
    "GLM-4.6V-106B": (67.78, V1),
    "Qwen3-VL-235B": (70.93, V1),
    "Qwen3.5-397B": (72.54, V1),
    "Kimi-K2.5": (69.53, V1),
    "Vision-OPD-4B": (73.83, V1),
    "Vision-OPD-9B": (75.70, V1),
}
AVERAGES_V2 = {
    "Qwen3.5-4B": 70.68,
    "Vision-OPD-4B": 77.07,
    "Qwen3.5-9B": 73.37,
    "Vision-OPD-9B": 79.68,
}


@pytest.mark.parametrize(
    ("model", "average", "sets"),
    [
        *((model, average, sets) for model, (average, sets) in AVERAGES.items()),
        *((model, average, V2) for model, average in AVERAGES_V2.items()),
    ],
)
def test_scores_have_the_averages_that_are_printed(
    model: str, average: float, sets: tuple[str, ...]
) -> None:
    scores = paper_scores()[model]
    assert sum(scores[name] for name in sets) / len(sets) == pytest.approx(average, abs=0.0051)


def test_all_models_of_table_1_are_checked_and_table_2_agrees_with_it() -> None:
    first = {model: dict(zip(V1, scores, strict=True)) for model, scores in _rows(_TABLE_1)}
    second = {model: dict(zip(_OTHERS, scores, strict=True)) for model, scores in _rows(_TABLE_2)}
    assert set(first) == set(AVERAGES) and len(second) == 12
    shared = [(model, name) for model in first.keys() & second.keys() for name in V1[:4]]
    assert len(shared) == 16
    assert all(first[model][name] == second[model][name] for model, name in shared)


def test_scores_are_of_the_model_and_set_that_the_paper_names() -> None:
    scores = paper_scores()
    assert scores["Qwen3.5-9B DAPO"] == {
        **{"vstar": 88.48, "zoombench": 55.62, "hrbench-4k": 86.25, "hrbench-8k": 84.13},
        **{"mmvp": 79.33, "cv-bench": 87.30, "mmstar": 75.67, "pope": 87.54},
    }
    assert scores["Qwen3-VL-8B Vision-OPD"]["mme-realworld"] == 67.03
    assert scores["Vision-OPD-9B"]["pope"] == 89.13 and "mmvp" not in scores["GPT-5.4"]


def test_ours_stand_below_the_base_models_with_their_intervals(tmp_path: Path) -> None:
    a = make_result(tmp_path / "a", "+" * 161 + "-" * 30)
    b = read_result(write_result(tmp_path / "b", {"mine": items("+"), "pope": items("+-")}))
    found = paper_table([("base", a), ("trained", b)])
    assert found is not None
    assert found.header == ("model", "vstar", "pope")
    assert found.rows == (
        ("Qwen3.5-4B", "84.29", "88.28"),
        ("Vision-OPD-4B", "92.15", "89.14"),
        ("Qwen3.5-9B", "82.72", "88.88"),
        ("Vision-OPD-9B", "94.76", "89.13"),
        ("base", "84.29 (78.46 to 88.77)", "-"),
        ("trained", "-", "50.00 (9.45 to 90.55)"),
    )
    assert found.unlike == ()
    whole = paper_table([("base", a)], is_whole=True)
    assert whole is not None and len(whole.rows) == 31
    assert ("GPT-5.4", "76.96") in whole.rows


def test_a_set_of_ones_own_has_no_place_in_the_paper(tmp_path: Path) -> None:
    assert paper_table([("a", read_result(write_result(tmp_path, {"mine": items("+")})))]) is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prompt_style": "lmms"}, "mine: prompt_style is 'lmms', not 'paper'"),
        ({"temperature": 0.7}, "mine: temperature is 0.7, not 0.0"),
        ({"view": "crop"}, "mine: view is 'crop', not 'full'"),
        ({"thinking": True}, "mine: the model thinks before it answers"),
        ({"source": {"limit": 50}}, "mine: vstar: its first 50 items only"),
    ],
)
def test_what_was_measured_otherwise_is_told(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    found = paper_table([("mine", make_result(tmp_path, "+", **options))])
    assert found is not None and found.unlike == (told,)
