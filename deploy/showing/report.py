"""RUN/report.html: one self-contained page of what a run did.

python -m deploy.showing.report RUN makes it anew.
"""

import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from common.config_cli import exit_with
from common.errors import ConfigError
from common.figure_rows import Row, read_rows
from common.files import json_object_or_empty
from common.metrics import CHARTS, OBSERVED, Chart, Metric, lines_of
from common.output import ends_with_its_reader
from common.page import page as html_page
from common.page import tile
from deploy.showing.charts import Series, line_chart
from deploy.showing.column_tables import column_tables
from deploy.showing.data_lines import data_lines
from deploy.showing.scene_cards import scene_cards

_NOTHING = "\N{EN DASH}"


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from the run folder's other files; returns its path.

    What a run did not get to is left out of the page.
    """
    summary = json_object_or_empty(run_folder / "summary.json")
    rows = read_rows(run_folder / "metrics.jsonl") + read_rows(run_folder / "observations.jsonl")
    groups = read_rows(run_folder / "groups.jsonl")
    scenes = json_object_or_empty(run_folder / "scenes.json").get("scenes", [])
    path = run_folder / "report.html"
    path.write_text(page(run_folder.name, summary, rows, groups, scenes), encoding="utf-8")
    return path


def page(name: str, summary: Row, rows: list[Row], groups: list[Row], scenes: list[Row]) -> str:
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    drawn = "".join(_chart(chart, rows) for chart in CHARTS)
    charts = f'<section class="charts">{drawn}</section>'
    body = f"{_headline(summary)}{charts}{column_tables(groups)}{scene_cards(scenes)}"
    return html_page(name, body, style)


def _headline(summary: Row) -> str:
    tiles = [
        _accuracy_tile("full image", summary, "full", "accuracy on held-out scenes"),
        _accuracy_tile("evidence crop", summary, "crop", "what the teacher can read"),
        tile("gap closed", _percent(summary.get("gap_closed")), "of crop minus full, before"),
        tile("steps", _plain(summary.get("steps")), f"in {_seconds(summary.get('seconds'))}"),
        tile(
            "trajectories trained",
            _plain(summary.get("trajectories_trained")),
            f"{_plain(summary.get('trajectories_expired'))} trajectories expired",
        ),
        tile(
            "staleness",
            _plain(summary.get("max_staleness_seen")),
            f"steps at most; {_plain(summary.get('max_staleness'))} allowed",
        ),
    ]
    note = "<p>This run was interrupted.</p>" if summary.get("interrupted") else ""
    notes = note + "".join(f"<p>{escape(line)}</p>" for line in data_lines(summary))
    return f'<section class="tiles">{"".join(tiles)}</section>{notes}'


def _accuracy_tile(name: str, summary: Row, view: str, remark: str) -> str:
    shares = [summary.get(f"{view}_accuracy_{when}") for when in ("before", "after")]
    change = " → ".join(map(_percent, shares))
    steps = [summary.get(f"version_{when}") for when in ("before", "after")]
    of_steps = f", steps {steps[0]} and {steps[1]}" if None not in steps else ""
    return tile(name, change, remark + of_steps + _cut_remark(summary, view))


def _cut_remark(summary: Row, view: str) -> str:
    """A remark on answers that the length limit cut, if any was."""
    shares = {when: summary.get(f"{view}_cut_share_{when}") for when in ("before", "after")}
    told = [f"{share:.1%} {when}" for when, share in shares.items() if share is not None]
    return f"; cut at the length limit: {', '.join(told)}" if any(shares.values()) else ""


def _chart(chart: Chart, rows: list[Row]) -> str:
    metrics = lines_of(chart)
    is_share = metrics[0].unit == "share"
    series = [_series(metric, rows) for metric in metrics]
    return line_chart(chart.title, chart.unit, series, is_share=is_share, note=chart.note)


def _series(metric: Metric, rows: list[Row]) -> Series:
    assert metric.chart is not None
    # The last figure of a step counts: what was observed of a step that was undone stays in
    # observations.jsonl when a run is resumed.
    points = sorted(
        {r["step"]: r[metric.name] for r in rows if _is_number(r.get(metric.name))}.items()
    )
    return Series(metric.chart[1], _running_mean(points) if metric in OBSERVED else points)


def _running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each point with the mean of itself and up to four on either side."""
    nearby = [points[max(0, i - 4) : i + 5] for i in range(len(points))]
    return [(x, fmean(y for _, y in near)) for (x, _), near in zip(points, nearby, strict=True)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _percent(share: Any) -> str:
    return f"{share:.1%}" if _is_number(share) else _NOTHING


def _plain(value: Any) -> str:
    return f"{value:,}" if _is_number(value) else _NOTHING


def _seconds(value: Any) -> str:
    return f"{value:.0f} s" if _is_number(value) else "unknown time"


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python -m deploy.showing.report RUN")
        raise SystemExit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    folder = Path(sys.argv[1])
    if not folder.is_dir():
        exit_with(ConfigError(f"RUN = {str(folder)!r}: no such folder. Fix: name a run folder"))
    try:
        print(write_report(folder))
    except ConfigError as error:
        exit_with(error)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
