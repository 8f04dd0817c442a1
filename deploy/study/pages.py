"""What a study leaves beside its runs: study.json, study.md and study.html."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from common.files import replace_json, replace_text
from common.page import page, table
from deploy.study import plots
from deploy.study.columns import Figures, figures_of
from deploy.study.comparison import Outcome, outcomes
from deploy.study.planned_runs import Run, State, state_of
from deploy.study.study_file import StudyFile
from deploy.study.tables import (
    PAIRS_NOTE,
    SPREAD_NOTE,
    Rows,
    difference_rows,
    markdown,
    run_rows,
    spread_rows,
)
from deploy.study.variants import Variant

JSON, MARKDOWN, HTML = "study.json", "study.md", "study.html"
_NAMED = 6  # runs that are not done, of each state
_STYLE = ".dots { grid-template-columns: repeat(auto-fit, minmax(min(520px, 100%), 1fr)); }"


@dataclass(frozen=True)
class Results:
    """All that is known of a study's runs."""

    study: StudyFile
    variants: Sequence[Variant]
    states: Mapping[str, State]  # by run
    figures: Mapping[str, Figures]  # by run, of those that are done
    folders: Mapping[str, Sequence[Path]]  # of those, by variant
    outcomes: Sequence[Outcome]


def results_of(
    study: StudyFile,
    variants: Sequence[Variant],
    baseline_of: Mapping[str, str],
    runs: Sequence[Run],
) -> Results:
    """Read from the runs' folders.

    Raises:
        ConfigError: a run that is done cannot be read any more.
    """
    states = {run.name: state_of(run) for run in runs}
    done = [run for run in runs if states[run.name] is State.DONE]
    figures = {run.name: figures_of(run.folder) for run in done}
    by_seed = {(run.variant.name, run.seed): figures[run.name] for run in done}
    folders: dict[str, list[Path]] = {}
    for run in done:
        folders.setdefault(run.variant.name, []).append(run.folder)
    found = outcomes(by_seed, baseline_of, study.study.columns)
    return Results(study, variants, states, figures, folders, found)


def write_results(results: Results, out: Path) -> None:
    """Write study.json, study.md and study.html; OSError if that fails."""
    out.mkdir(parents=True, exist_ok=True)
    replace_json(out / JSON, as_json(results))
    replace_text(out / MARKDOWN, as_markdown(results))
    replace_text(out / HTML, as_html(results))


def as_json(results: Results) -> dict[str, Any]:
    titles = {variant.name: variant.title for variant in results.variants}
    return {
        "format": 1,
        "study": results.study.model_dump(mode="json"),
        "runs": {
            name: {"state": state.name.lower(), "figures": results.figures.get(name)}
            for name, state in results.states.items()
        },
        "variants": {
            o.variant: {
                "title": titles[o.variant],
                "seeds": list(o.seeds),
                "columns": {c: spread.as_json() for c, spread in o.spreads.items()},
                "baseline": o.baseline,
                "differences": {c: found.as_json() for c, found in o.differences.items()},
            }
            for o in results.outcomes
        },
    }


def as_markdown(results: Results) -> str:
    parts = [f"# {_title(results)}"]
    if titles := _titles(results):
        parts.append("\n".join(f"- {name}: {title}" for name, title in titles))
    for heading, note, rows in _tables(results):
        parts.append("\n\n".join(filter(None, [f"## {heading}", note, markdown(rows)])))
    if left := _left(results):
        parts.append("## Not done\n\n" + "\n".join(f"- {line}" for line in left))
    return "\n\n".join(parts) + "\n"


def as_html(results: Results) -> str:
    columns = results.study.study.columns
    titles = "".join(f"<dt>{escape(n)}</dt><dd>{escape(t)}</dd>" for n, t in _titles(results))
    charts = plots.axis_charts(results.study, results.variants, results.outcomes, columns)
    charts += plots.accuracy_chart(results.folders)
    tables = "".join(
        f"<h2>{escape(heading)}</h2><p>{escape(note)}</p>{table(rows[0], rows[1:])}"
        for heading, note, rows in _tables(results)
    )
    dots = plots.dot_charts(results.outcomes, columns)
    left = "".join(f"<li>{escape(line)}</li>" for line in _left(results))
    return page(
        _title(results),
        f'<dl>{titles}</dl><section class="charts">{charts}</section>{tables}'
        f'<h2>Every run</h2><p>{plots.DOTS_NOTE}</p><section class="charts dots">{dots}</section>'
        f"{f'<h2>Not done</h2><ul>{left}</ul>' if left else ''}",
        _STYLE,
    )


def _title(results: Results) -> str:
    study = results.study.study
    return study.title or study.name


def _titles(results: Results) -> list[tuple[str, str]]:
    """The titles of the named variants that were given one."""
    sections = results.study.variants.items()
    return [(name, section.title) for name, section in sections if section.title]


def _tables(results: Results) -> list[tuple[str, str, Rows]]:
    columns = results.study.study.columns
    tables = [("Variants", SPREAD_NOTE, spread_rows(results.outcomes, columns))]
    differences = difference_rows(results.outcomes, columns)
    if len(differences) > 1:
        tables.append(("Against the baseline", PAIRS_NOTE, differences))
    return [*tables, ("Runs", "", run_rows(results.figures, columns))]


def _left(results: Results) -> list[str]:
    """A line for each state, with the first few names."""
    lines = []
    for state in (State.NEW, State.CUT_OFF, State.CHANGED):
        names = [name for name, found in results.states.items() if found is state]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        if names:
            lines.append(f"{state.value} ({len(names)}): {', '.join(names[:_NAMED])}{more}")
    return lines
