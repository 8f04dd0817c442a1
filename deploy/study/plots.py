"""The drawings of a study: every run as a dot, accuracy over steps, figures along a grid's axis."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from deploy.planning.run_files import read_run
from deploy.showing.charts import NUM_COLORS, Series, line_chart
from deploy.study.columns import COLUMNS
from deploy.study.comparison import Outcome
from deploy.study.dot_chart import DotRow, dot_chart
from deploy.study.study_file import StudyFile
from deploy.study.variants import Variant

_LEFT_OUT = ("full_before", "crop_before", "steps")  # as good as equal in all variants
DOTS_NOTE = "A dot a run, a bar at the median."
_ACCURACY = "evaluation/full_accuracy"
Curve = Sequence[tuple[float, float]]


def dot_charts(found: Sequence[Outcome], columns: Iterable[str]) -> str:
    return "".join(
        dot_chart(
            COLUMNS[column].title,
            [
                DotRow(o.variant, o.spreads[column].values, o.spreads[column].median)
                for o in found
                if column in o.spreads
            ],
            COLUMNS[column].unit == "share",
        )
        for column in columns
        if column not in _LEFT_OUT
    )


def axis_charts(
    study: StudyFile, variants: Sequence[Variant], found: Sequence[Outcome], columns: Iterable[str]
) -> str:
    """Medians along the longest axis of numbers, a line for each combination of the others."""
    axis = max(
        (key for key, values in study.grid.items() if all(map(_is_number, values))),
        key=lambda key: len(study.grid[key]),
        default=None,
    )
    if axis is None or len(study.grid[axis]) < 2:
        return ""
    by_name = {outcome.variant: outcome for outcome in found}
    charts = []
    for column in columns:
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for variant in variants:
            spread = by_name[variant.name].spreads.get(column) if variant.name in by_name else None
            if spread is not None:
                lines[_others(variant, axis)].append((_number(variant.point[axis]), spread.median))
        if column not in _LEFT_OUT:
            charts.append(
                line_chart(
                    COLUMNS[column].title,
                    "median over seeds",
                    [Series(name, sorted(points)) for name, points in lines.items()],
                    is_share=COLUMNS[column].unit == "share",
                    across_name=axis,
                    from_zero=False,
                )
            )
    return "".join(charts)


def accuracy_chart(folders: Mapping[str, Sequence[Path]]) -> str:
    """Held-out accuracy over steps; nothing where there are more variants than colours.

    Args:
        folders: of runs that are done, by variant.
    """
    if len(folders) > NUM_COLORS:
        return ""
    return line_chart(
        "Accuracy on full images",
        "mean over seeds",
        [Series(name, _mean([_accuracies(f) for f in runs])) for name, runs in folders.items()],
        is_share=True,
        note="Points in between are measured on fewer scenes than the first and the last.",
    )


def _accuracies(folder: Path) -> Curve:
    rows = read_run(folder).measurements
    return [(row["step"], row[_ACCURACY]) for row in rows if row.get(_ACCURACY) is not None]


def _mean(curves: Sequence[Curve]) -> Curve:
    """The mean of curves at the steps that all of them have."""
    values: dict[float, list[float]] = defaultdict(list)
    for curve in curves:
        for step, value in dict(curve).items():
            values[step].append(value)
    return [(x, fmean(ys)) for x, ys in sorted(values.items()) if len(ys) == len(curves)]


def _others(variant: Variant, axis: str) -> str:
    point = {key: value for key, value in variant.point.items() if key != axis}
    values = [f"{key.rpartition('.')[2]} {value}" for key, value in point.items()]
    return ", ".join([*filter(None, [variant.family]), *values]) or "all"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
