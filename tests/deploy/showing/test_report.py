"""RUN/report.html, and tables and charts of pages.

Holds deploy/showing/column_tables.py.
"""

import json
import sys
from pathlib import Path

import pytest

from deploy.showing.charts import Series, line_chart
from deploy.showing.column_tables import column_tables
from deploy.showing.outcome import outcome_text
from deploy.showing.report import main, write_report
from tests.deploy.showing.support import SUMMARY
from tests.recorded_page import recorded, run_of


def test_the_report_is_a_page_of_what_the_run_got_to(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    row = {"step": 1, "learner/step_s": 1.0, "learner/loss_nats": 0.1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    report = write_report(tmp_path)
    assert report == tmp_path / "report.html"
    run = run_of(report)
    assert (run["state"], run["step"], run["summary"]) == ("finished", 1, SUMMARY)
    (loss,) = [chart for chart in recorded(report)["answers"]["curves?run=a"]["charts"]
               if chart["title"] == "Loss"]  # fmt: skip
    assert loss["lines"][0]["points"] == [[1, 0.1]]


def test_a_run_that_got_nowhere_has_a_page_too(tmp_path: Path) -> None:
    assert run_of(write_report(tmp_path))["step"] == 0


def test_the_command_names_the_report_or_the_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    main()
    assert capsys.readouterr().out == f"{tmp_path}/report.html\n"
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "gone")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "no such folder. Fix: name a run folder" in capsys.readouterr().err


def test_answers_that_were_cut_are_told_apart() -> None:
    cut = {"full_cut_share_before": 0.25, "full_cut_share_after": 0.0}
    cut |= {"crop_cut_share_before": 0.0, "crop_cut_share_after": 0.0}
    told = outcome_text(SUMMARY | cut).splitlines()
    assert "full image, cut        25.0%    0.0%" in told
    assert not any(line.startswith("crop, cut") for line in told)
    assert "cut" not in outcome_text(SUMMARY)


def test_figures_are_told_by_the_values_of_kept_columns(tmp_path: Path) -> None:
    assert column_tables(tmp_path) == []
    rows = [
        trained(1, "<web>", tokens=10, entropy=1.0),
        trained(1, "<web>", tokens=30, entropy=2.0),
        trained(2, "<web>", tokens=10, entropy=0.5),
        trained(2, None, tokens=10, entropy=0.25),
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "groups.jsonl").write_text(text + '{"step": 3, "half-writ')
    (table,) = column_tables(tmp_path)
    assert table["title"] == "By source"
    entropy = table["header"].index("learner/entropy_nats (nats)")
    web, empty = table["rows"]
    assert (web[0], web[1], web[entropy]) == ("<web>", "3", "1.75 \u2192 0.5")
    assert (empty[0], empty[1]) == ("(empty)", "1")
    assert empty[entropy] == "\N{EN DASH} \u2192 0.25"


def trained(step: int, source: str | None, tokens: int, entropy: float) -> dict[str, object]:
    return {
        "step": step,
        "columns": {"source": source},
        "learner/trajectories": 2,
        "learner/tokens": tokens,
        "learner/entropy_nats": entropy,
    }


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [-1.0, 2.0], [1e-9, 2e-9], [3e7] * 5])
def test_a_chart_keeps_every_point_inside(values: list[float]) -> None:
    chart = line_chart("t", "u", [Series("s", list(enumerate(values, start=1)))])
    points = chart.split('points="')[1].split('"')[0].split()
    for point in points:
        x, y = map(float, point.split(","))
        assert 0 <= x <= 420 and 0 <= y <= 220


def test_a_chart_without_points_is_left_out() -> None:
    assert line_chart("t", "u", [Series("s", [])]) == ""
