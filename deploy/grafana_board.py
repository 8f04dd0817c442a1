"""The Grafana board of a run: python -m deploy.grafana_board > deploy/grafana/vision-opd.json

Curves, units and healthy ranges are those that `common.metrics` and `common.scrape.exported`
declare. The board has two variables: the Prometheus it asks, and the run.
"""

import json
from collections.abc import Iterable
from typing import Any

from common.metrics import CHARTS, METRICS, OBSERVED, Chart, Metric, lines_of
from common.output import ends_with_its_reader
from common.scrape.exported import EXPORTED
from deploy.showing.board_panels import SOURCE, BoardRow, Panel, Query, curves, laid_out, number

_OF_RUN = 'run="$run"'
_OBSERVED = {metric.name for metric in OBSERVED if not metric.name.startswith("broker/")}
_OF_TIME = ("s", "tokens/s")  # units of what tells how fast a run is


def board() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "vision-opd",
        "title": "Vision-OPD",
        "description": "One run: what is learnt, how fast, and what waits for what.",
        "tags": ["vision-opd"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": 36,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source_variable(), _run_variable()]},
        "annotations": {"list": []},
        "panels": laid_out(_rows()),
    }


def _rows() -> list[BoardRow]:
    drift, *others = CHARTS
    learning = [chart for chart in others if not _is_of_time(chart)]
    fast = [chart for chart in others if _is_of_time(chart)]
    return [
        BoardRow("Now", (*_numbers(), _of_chart(drift, width=24))),
        BoardRow(
            "Learning",
            (*map(_of_chart, learning), _of_area("Health gates", "health"), *_in_no_chart()),
        ),
        BoardRow("Throughput and idle", tuple(map(_of_chart, fast))),
        BoardRow("Queue", _queue()),
        BoardRow("Rollout servers", _servers()),
        BoardRow("Pushes and checkpoints", _pushes()),
        BoardRow("Processes", _processes()),
    ]


# ---- expressions ---------------------------------------------------------------------------------
def _series(name: str, role: str = "") -> str:
    """A figure of the run.

    Args:
        role: of the processes that tell it; empty: those that know it best.
    """
    area = name.partition("/")[0]
    if not role and name in _OBSERVED:
        role = "launcher"
    of_rows = name in METRICS and area != "broker" and not role
    whom = 'process="learner-0"' if of_rows else f'role="{role or area}"'
    return f"{EXPORTED[name].series}{{{_OF_RUN}, {whom}}}"


def _rate(name: str) -> str:
    return f"rate({_series(name)}[$__rate_interval])"


def _own(name: str) -> str:
    """A figure that each process tells of itself."""
    return f"{name}{{{_OF_RUN}}}"


# ---- panels from declarations --------------------------------------------------------------------
def _is_of_time(chart: Chart) -> bool:
    return any(line.unit in _OF_TIME or "idle" in line.name for line in lines_of(chart))


def _of_chart(chart: Chart, width: int = 8) -> Panel:
    lines = lines_of(chart)
    ranges = [line.healthy for line in lines if line.healthy is not None]
    queries = [Query(_series(line.name), _label(line)) for line in lines]
    note = "\n".join((f"In {chart.unit}.", *(f"{_label(m)}: {_note(m)}" for m in lines)))
    marked = ranges[0] if len(ranges) == 1 else None
    return curves(chart.title, lines[0].unit, queries, note, marked, width)


def _label(metric: Metric) -> str:
    """What tells a metric from others of its panel."""
    return metric.name if metric.chart is None else metric.chart[1]


def _title(metric: Metric) -> str:
    """What a panel of this metric alone is called."""
    if metric.chart is not None:
        return ": ".join(metric.chart)
    return metric.name if metric.gate is None else metric.gate.label


def _note(metric: Metric) -> str:
    healthy = f" Healthy: {metric.healthy} ({metric.healthy.why})." if metric.healthy else ""
    return f"{metric.meaning}.{healthy}"


def _of_metrics(title: str, metrics: Iterable[Metric]) -> Panel:
    """Metrics of one unit, by their names."""
    found = list(metrics)
    note = "\n".join(f"{metric.name}: {_note(metric)}" for metric in found)
    return curves(title, found[0].unit, [Query(_series(m.name), m.name) for m in found], note)


def _of_area(title: str, area: str) -> Panel:
    return _of_metrics(title, (m for m in METRICS.values() if m.name.startswith(f"{area}/")))


def _in_no_chart() -> list[Panel]:
    """A panel for each figure with a healthy range that no other panel of the row shows."""
    found = [m for m in METRICS.values() if m.healthy and not m.chart]
    return [
        curves(_title(m), m.unit, [Query(_series(m.name), m.name)], _note(m), m.healthy)
        for m in found
        if not m.name.startswith("health/")
    ]


def _numbers() -> list[Panel]:
    """What one looks at first: drift, where the run is, and gauges with a healthy range."""
    gauges = [m for m in METRICS.values() if m.gauge and m.healthy is not None]
    panels = [
        number(_title(m), m.unit, Query(_series(m.name), ""), _note(m), m.healthy) for m in gauges
    ]
    for title, name in (
        ("Step", "broker/version"),
        ("of steps", "broker/steps_planned"),
        ("Greatest staleness", "broker/staleness_max_steps"),
    ):
        panels.append(number(title, "", Query(_series(name), ""), EXPORTED[name].meaning))
    return panels


# ---- panels of what processes tell beside rows ---------------------------------------------------
def _one(title: str, unit: str, *queries: tuple[str, str], note: str = "") -> Panel:
    return curves(title, unit, [Query(*query) for query in queries], note)


def _queue() -> tuple[Panel, ...]:
    used, slots = _series("broker/slots_used"), _series("broker/slots")
    return (
        _one("Slots", "", (used, "in use"), (slots, "there are"),
             note="Groups between lease and training. All in use: rollout waits for the learner."),
        _one("Trajectories by state", "", (_series("broker/trajectories"), "{{state}}")),
        _one("Expired a second, by reason", "",
             (_rate("broker/trajectories_expired"), "{{reason}}")),
        _one("Groups to come", "", (_series("broker/groups_never_issued"), "never leased"),
             (_series("broker/groups_to_issue_again"), "to be leased again")),
        _one("Lost data", "", (_series("broker/samples_quarantined"), "quarantined samples"),
             (_series("broker/rows_refused"), "refused rows"),
             (_series("broker/attempts_failed"), "failed attempts")),
        _one("On disk", "bytes", (_series("broker/journal_bytes"), "journal"),
             (_series("broker/segment_bytes"), "trajectories")),
    )  # fmt: skip


def _servers() -> tuple[Panel, ...]:
    tokens = _rate("rollout/tokens_total")
    in_flight = _series("rollout/groups_in_flight", role="rollout")
    idle = _series("rollout/idle_share", role="rollout")
    return (
        _one("Tokens a second", "tokens/s", (tokens, "{{server}}")),
        _one("Groups under way", "", (in_flight, "{{server}}")),
        _one("Time without a group", "share", (idle, "{{server}}")),
        _one("Version served", "", (_series("rollout/serving_version"), "{{server}}"),
             (_series("broker/version"), "learner")),
        _one("Silence", "s", (_series("broker/member_silent_s"), "{{member}}"),
             note="A heartbeat comes every second or two."),
        _one("Broker", "", (_series("broker/store_failed"), "disk takes nothing"),
             (_series("broker/is_finished"), "run is over")),
    )  # fmt: skip


def _pushes() -> tuple[Panel, ...]:
    versions, acknowledged = _series("broker/version"), _series("broker/member_version")
    behind = f"{versions} - on(run) group_right() {acknowledged}"
    return (
        _of_area("Pushes", "sync"),
        _of_area("Checkpoints", "checkpoint"),
        _one("Versions behind the learner", "", (behind, "{{member}}"),
             note="By what each rollout server has acknowledged; one that has none is not shown."),
    )  # fmt: skip


def _processes() -> tuple[Panel, ...]:
    cpu = f"rate({_own('process_cpu_seconds_total')}[$__rate_interval])"
    return (
        _one("CPU cores", "", (cpu, "{{process}}")),
        _one("Resident memory", "bytes", (_own("process_resident_memory_bytes"), "{{process}}")),
        _one("Open files", "", (_own("process_open_fds"), "{{process}}")),
        _one("Processes by state", "", (_series("launcher/processes"), "{{state}}")),
        _one("Restarts", "", (_series("launcher/restarts"), "{{of}}")),
        _one("Members", "", (_series("broker/members"), "{{kind}}"),
             (_series("broker/members_lost"), "lost")),
    )  # fmt: skip


# ---- variables -----------------------------------------------------------------------------------
def _source_variable() -> dict[str, Any]:
    return {"type": "datasource", "name": "source", "label": "Prometheus", "query": "prometheus"}


def _run_variable() -> dict[str, Any]:
    series = EXPORTED["broker/version"].series
    return {
        "type": "query",
        "name": "run",
        "label": "Run",
        "datasource": SOURCE,
        "query": f"label_values({series}, run)",
        "refresh": 2,  # whenever the time range changes: runs come and go
        "sort": 2,  # the newest first, by the date in its name
    }


def main() -> None:
    with ends_with_its_reader():
        print(json.dumps(board(), indent=1))


if __name__ == "__main__":
    main()
