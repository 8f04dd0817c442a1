"""Curves from files that grow, are replaced, are torn or damaged.

Holds deploy/inspector/followed.py, deploy/inspector/figures.py.
"""

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.metrics import METRICS
from deploy.inspector.curves import MAX_POINTS, curves, decimated
from deploy.inspector.figures import RunFigures
from deploy.inspector.followed import FollowedRows
from tests.deploy.inspector.runs import write_lines

LOSS, GENERATED = "learner/loss_nats", "rollout/tokens_per_s"


def trained(step: int, loss: float | None) -> dict:
    return {"step": step, "time_s": 2.0 * step, "learner/step_s": 1.0, LOSS: loss}


def line_of(answer: dict, metric: str) -> list:
    lines = [line for chart in answer["charts"] for line in chart["lines"]]
    return next((line["points"] for line in lines if line["metric"] == metric), [])


def test_lines_are_read_once_as_they_are_completed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = FollowedRows(path)
    assert file.look() == (False, [])
    path.write_text('{"step": 1}\n{"st')
    assert file.look() == (False, [{"step": 1}]) and file.has_torn_end
    with path.open("a") as more:
        more.write('ep": 2}\n\n[3]\nnot json\n{"step": 4}\n')
    assert file.look() == (False, [{"step": 2}, {"step": 4}])
    assert (file.bad_lines, file.has_torn_end) == (2, False)
    assert file.look() == (False, [])


def test_a_file_that_is_replaced_cut_or_removed_begins_anew(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"step": n} for n in range(5)])
    file = FollowedRows(path)
    file.look()
    with path.open("r+") as cut:
        cut.truncate(12)
    assert file.look() == (True, [{"step": 0}])
    other = write_lines(tmp_path / "other.jsonl", [{"step": 7}, {"step": 8}])
    other.replace(path)
    assert file.look() == (True, [{"step": 7}, {"step": 8}])
    path.write_text('{"step": 9}\n{"step": 8}\n')  # as long as before, in the same inode
    assert file.look() == (True, [{"step": 9}, {"step": 8}])
    path.unlink()
    assert file.look() == (True, []) and file.look() == (False, [])


def test_curves_grow_with_the_run(tmp_path: Path) -> None:
    figures = RunFigures(tmp_path)
    assert curves(figures) == {"charts": []}
    path = write_lines(tmp_path / "metrics.jsonl", [trained(1, 0.5), trained(2, None)])
    assert line_of(curves(figures), LOSS) == [[1, 0.5]]
    with path.open("a") as file:
        file.write(json.dumps(trained(3, 0.25)) + "\n")
    answer = curves(figures)
    assert line_of(answer, LOSS) == [[1, 0.5], [3, 0.25]]
    assert (figures.step, figures.time_s) == (3, 6.0)
    (chart,) = (chart for chart in answer["charts"] if chart["title"] == "Loss")
    assert (chart["unit"], chart["is_share"]) == ("nats", False)


def test_steps_that_were_undone_are_gone_from_both_files(tmp_path: Path) -> None:
    """A learner that goes on from step 2 cuts its own file; the launcher's has both lives."""
    figures = RunFigures(tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    write_lines(metrics, [trained(n, float(n)) for n in range(1, 6)])
    observed = write_lines(
        tmp_path / "observations.jsonl", [{"step": n, GENERATED: 10.0 * n} for n in range(1, 6)]
    )
    assert [x for x, _ in line_of(curves(figures), GENERATED)] == [1, 2, 3, 4, 5]
    write_lines(tmp_path / "new", [trained(n, float(n)) for n in (1, 2)]).replace(metrics)
    answer = curves(figures)
    assert line_of(answer, LOSS) == [[1, 1.0], [2, 2.0]]
    assert [x for x, _ in line_of(answer, GENERATED)] == [1, 2]
    with metrics.open("a") as file, observed.open("a") as seen:
        file.writelines(json.dumps(trained(n, 0.5)) + "\n" for n in (3, 4, 5, 6))
        seen.write(json.dumps({"step": 3, GENERATED: 0.0}) + "\n")
    points = line_of(curves(figures), GENERATED)
    assert [x for x, _ in points] == [1, 2, 3]
    assert points[0][1] == (10.0 + 20.0 + 0.0) / 3  # a running mean, of what was not undone


def test_drift_is_drawn_first_and_every_declared_chart_is_there(tmp_path: Path) -> None:
    numbers = {name: 0.5 for name, metric in METRICS.items() if metric.chart is not None}
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "learner/step_s": 1.0, **numbers}])
    titles = [chart["title"] for chart in curves(RunFigures(tmp_path))["charts"]]
    declared = {metric.chart[0] for metric in METRICS.values() if metric.chart is not None}
    assert set(titles) == declared and len(titles) == len(declared)
    assert titles[0] == "Drift of rollout against learner"


def test_figures_of_an_older_version_are_drawn_under_today_s_names(tmp_path: Path) -> None:
    old = {"step": 1, "learner/step_s": 1.0, "learner/logprob_difference_mean_nats": 0.02}
    write_lines(tmp_path / "metrics.jsonl", [old])
    assert line_of(curves(RunFigures(tmp_path)), "drift/mean_nats") == [[1, 0.02]]


def test_a_line_that_no_figure_fits_costs_that_line_alone(tmp_path: Path) -> None:
    """What is read is not read again: an error in one line would lose those after it for good."""
    deep = '{"step": 2, "learner/loss_nats": ' + "[" * 100_000 + "]" * 100_000 + "}"
    lines = [
        '{"step": 1, "learner/loss_nats": 1.0, "learner/step_s": 1.0}',
        f'{{"step": 2, "learner/loss_nats": 1{"0" * 400}, "learner/step_s": 1.0}}',
        f'{{"step": 1{"0" * 400}, "learner/loss_nats": 1.0, "learner/step_s": 1.0}}',
        deep,
        '{"step": 3, "learner/loss_nats": 3.0, "learner/step_s": 1.0}',
    ]
    for name in ("metrics.jsonl", "observations.jsonl"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    figures = RunFigures(tmp_path)
    figures.look()
    assert figures.points("learner/loss_nats") == [(1, 1.0), (3, 3.0)] and figures.step == 3
    assert figures.notes()[0] == "metrics.jsonl: 1 damaged lines are not shown"


def test_what_is_no_figure_is_not_drawn(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "metrics.jsonl",
        [{"step": 1, LOSS: "high"}, {"step": "two", LOSS: 1.0}, {"step": 3, LOSS: True},
         {"step": 4, LOSS: float("inf")}, {"step": 10**30, LOSS: 1.0}, {LOSS: 2.0},
         {"step": 5, LOSS: 1}, {"step": 6, "unknown": 1.0}],
    )  # fmt: skip
    assert line_of(curves(RunFigures(tmp_path)), LOSS) == [[5, 1]]


def test_files_tell_what_they_lack(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step')
    (tmp_path / "observations.jsonl").write_text("damaged\n")
    figures = RunFigures(tmp_path)
    figures.look()
    assert figures.notes() == [
        "metrics.jsonl ends in a half-written line, which is not shown",
        "observations.jsonl: 1 damaged lines are not shown",
    ]


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=3000), st.integers(4, 50))
def test_few_points_keep_ends_and_extremes_in_their_order(values, most) -> None:
    points = list(enumerate(values))
    found = decimated(points, most)
    assert len(found) <= max(most, 0) or len(points) <= most
    assert found == sorted(set(found)) and set(found) <= set(points)
    assert found[0] == points[0] and found[-1] == points[-1]
    shown = [value for _, value in found]
    assert min(shown) == min(values) and max(shown) == max(values)


def test_a_long_curve_has_at_most_600_points(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).normal(0, 1, 5000)
    drawn[1234] = 99.0
    write_lines(
        tmp_path / "metrics.jsonl", [trained(n, float(v)) for n, v in enumerate(drawn, start=1)]
    )
    points = line_of(curves(RunFigures(tmp_path)), LOSS)
    assert 500 < len(points) <= MAX_POINTS and [1235, 99.0] in points


def test_all_lines_of_a_long_chart_have_points_at_the_same_steps(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).normal(0, 1, (2, 5000))
    drawn[0, 1234] = drawn[1, 4321] = 99.0
    rows = [
        {**trained(n, None), "learner/ratio_mean": one, "learner/ratio_max": other}
        for n, (one, other) in enumerate(drawn.T.tolist(), start=1)
    ]
    write_lines(tmp_path / "metrics.jsonl", rows)
    answer = curves(RunFigures(tmp_path))
    first, second = (line_of(answer, f"learner/ratio_{name}") for name in ("mean", "max"))
    assert [x for x, _ in first] == [x for x, _ in second]
    assert 500 < len(first) <= MAX_POINTS
    assert [1235, 99.0] in first and [4322, 99.0] in second
