import math

import pytest

from deploy.study.columns import Figures
from deploy.study.comparison import Difference, Spread, outcomes
from deploy.study.tables import difference_rows, markdown, run_rows, spread_rows

COLUMNS = ("full_after", "gap_closed", "seconds")
BASELINES = {"crop": "crop", "full": "crop", "absent": "crop"}
# Differences of full_after are -0.3, -0.4, -0.35: mean -0.35, standard error 0.05 / sqrt(3),
# Student's 4.3027 at two degrees of freedom.
DONE: dict[tuple[str, int], Figures] = {
    ("crop", 0): {"full_after": 0.8, "gap_closed": 0.75, "seconds": 100.0},
    ("crop", 1): {"full_after": 0.9, "gap_closed": 0.80, "seconds": 110.0},
    ("crop", 2): {"full_after": 0.85, "gap_closed": 0.85, "seconds": 1200.0},
    ("full", 2): {"full_after": 0.5, "gap_closed": None, "seconds": 1100.0},
    ("full", 0): {"full_after": 0.5, "gap_closed": None, "seconds": 90.0},
    ("full", 1): {"full_after": 0.5, "gap_closed": 0.05, "seconds": 100.0},
    ("full", 7): {"full_after": 0.1, "gap_closed": None, "seconds": 1.0},  # crop has none of it
}


def test_seeds_of_both_make_pairs() -> None:
    crop, full = outcomes(DONE, BASELINES, COLUMNS)
    assert (crop.seeds, full.seeds) == ((0, 1, 2), (0, 1, 2, 7))
    assert crop.differences == {}
    found = full.differences["full_after"]
    half = 4.302653 * 0.05 / math.sqrt(3)
    assert found.pairs == 3
    assert found.mean == pytest.approx(-0.35)
    assert (found.low, found.high) == pytest.approx((-0.35 - half, -0.35 + half), abs=1e-6)
    assert found.is_beyond_noise
    assert full.differences["gap_closed"] == Difference(1, -0.75, -math.inf, math.inf)
    assert full.differences["gap_closed"].as_json()["low"] is None


def test_a_spread_is_of_the_runs_that_tell_it() -> None:
    crop, full = outcomes(DONE, BASELINES, COLUMNS)
    assert crop.spreads["full_after"] == Spread((0.8, 0.9, 0.85))
    assert crop.spreads["full_after"].as_json() == {
        "values": [0.8, 0.9, 0.85],
        "mean": pytest.approx(0.85),
        "median": 0.85,
        "min": 0.8,
        "max": 0.9,
    }
    assert full.spreads["gap_closed"] == Spread((0.05,))


def test_tables_write_shares_in_percent_and_differences_in_points() -> None:
    found = outcomes(DONE, BASELINES, COLUMNS)
    assert spread_rows(found, COLUMNS) == [
        ["variant", "runs", "full after", "gap closed", "seconds"],
        ["crop", "3", "85.0 % (80.0 to 90.0 %)", "80.0 % (75.0 to 85.0 %)", "110 (100 to 1,200)"],
        ["full", "4", "50.0 % (10.0 to 50.0 %)", "5.0 %", "95 (1 to 1,100)"],
    ]
    assert difference_rows(found, COLUMNS) == [
        ["variant", "against", "pairs", "full after", "gap closed", "seconds"],
        ["full", "crop", "3", "-35.0* (-47.4 to -22.6)", "-75.0", "-40 (-169 to +89)"],
    ]


def test_a_column_that_no_run_tells_is_left_out() -> None:
    done: dict[tuple[str, int], Figures] = {("crop", 0): {"full_after": None, "seconds": 3.0}}
    found = outcomes(done, BASELINES, COLUMNS)
    assert spread_rows(found, COLUMNS) == [["variant", "runs", "seconds"], ["crop", "1", "3"]]
    assert len(difference_rows(found, COLUMNS)) == 1
    assert run_rows({"crop.seed-0": done["crop", 0]}, COLUMNS)[1] == ["crop.seed-0", "-", "-", "3"]


def test_markdown_lines_up() -> None:
    assert markdown([["run", "steps"], ["crop.seed-0", "40"]]).splitlines() == [
        "| run         | steps |",
        "|-------------|------:|",
        "| crop.seed-0 |    40 |",
    ]
