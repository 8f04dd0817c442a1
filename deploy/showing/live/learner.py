"""The view of the learner: a step's seconds by part, and the curves of its last steps."""

from rich.text import Text

from common.metrics import METRICS
from deploy.planning.rates import STEP_PARTS
from deploy.showing.live.facts import Facts
from deploy.showing.live.text import DIM, Column, bar, curve, table, wrapped

_RECENT = 20  # steps of a mean
_BAR_COLUMNS = 20
_PARTS = (("waiting", "learner/wait_batch_s"), *((part.name, part.metric) for part in STEP_PARTS))
# Metric, and how its last value is written.
CURVES = (
    ("loss", "learner/loss_nats", "{:.4f}"),
    ("drift", "drift/mean_nats", "{:.4f}"),
    ("drift, p99", "drift/p99_nats", "{:.3f}"),
    ("grad norm", "learner/grad_norm", "{:.2f}"),
    ("staleness", "staleness/mean_steps", "{:.1f}"),
    ("tokens/s", "learner/tokens_per_s", "{:.0f}"),
    ("full image", "evaluation/full_accuracy", "{:.1%}"),
    ("evidence crop", "evaluation/crop_accuracy", "{:.1%}"),
)


def parts(facts: Facts, width: int, rows: int) -> list[Text]:
    """Where the seconds of a step go, in the last one and on average."""
    recent = facts.folder.steps[-_RECENT:]
    if not recent:
        return wrapped("No step is trained yet.", width, DIM)
    totals = [row["learner/step_s"] + (row.get("learner/wait_batch_s") or 0.0) for row in recent]
    whole = sum(totals) or 1.0
    told = []
    seconds = [(name, [row.get(metric) or 0.0 for row in recent]) for name, metric in _PARTS]
    known = [sum(column) for column in zip(*(values for _, values in seconds), strict=True)]
    other = [max(0.0, total - part) for total, part in zip(totals, known, strict=True)]
    for name, values in [*seconds, ("other", other)]:
        share = sum(values) / whole
        mean = sum(values) / len(values)
        filled = bar(share, _BAR_COLUMNS).ljust(_BAR_COLUMNS)
        told.append((name, f"{values[-1]:.3f}", f"{mean:.3f}", f"{share:.0%}", filled))
    told.append(("a step", f"{totals[-1]:.3f}", f"{whole / len(recent):.3f}", "100%", ""))
    columns = (
        Column("seconds of", is_name=True),
        Column(f"step {recent[-1]['step']}"),
        Column(f"mean of {len(recent)}"),
        Column("share"),
        Column("", rank=1),
    )
    return table(columns, told, width)


def curves(facts: Facts, width: int, rows: int) -> list[Text]:
    """The last steps as rows of bars, each between its own lowest and highest value."""
    lines: list[Text] = []
    for label, name, form in CURVES:
        rows_of = facts.folder.measurements if name.startswith("evaluation/") else None
        values = facts.columns_of(name, rows=rows_of).get(name, [])
        if not values:
            continue
        low, last, high = (form.format(v) for v in (min(values), values[-1], max(values)))
        unit = METRICS[name].unit
        end = f" {last} ({low} to {high})" + (f" {unit}" if unit in ("nats", "steps") else "")
        columns = min(60, max(8, width - 14 - len(end)))
        line = Text(f"{label:<14}")
        line.append(curve(values, columns), "cyan")
        line.append(end)
        lines.append(line)
    count = len(facts.folder.steps)
    return [Text(f"the last {count} steps", DIM), *lines] if lines else []


LEFT = (parts,)
RIGHT = (curves,)
