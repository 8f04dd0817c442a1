"""A status as people read it: one line, or a panel of at most 100 columns."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from broker.protocol import Gauges, MemberStatus, Role, Status
from common.logs import printable
from deploy.showing.data_notes import counts_text, retry_text
from deploy.showing.situation import DRAINING

PHASES = ("starting", "measuring before", "training", "measuring after", "done", "paused")
SHOWN = (  # in a line: name, gauge (`common.metrics`), form
    ("loss", "loss_nats", "{:.4f}"),
    ("full", "full_accuracy", "{:.1%}"),
    ("crop", "crop_accuracy", "{:.1%}"),
    ("measured at", "accuracy_version", "{:.0f}"),
    ("staleness", "staleness_max", "{:.0f}"),
    ("tokens/s", "tokens_per_s", "{:.0f}"),
    ("idle", "idle_share", "{:.0%}"),
)


def plain_line(status: Status, elapsed_s: float) -> str:
    """One line of what matters now."""
    learner = learner_of(status)
    parts = [f"{clock(elapsed_s)}  {phase_of(learner)}"]
    if status.version or phase_of(learner) == "training":
        parts.append(f"step {status.version}/{status.total_steps}")
    for name, key, form in SHOWN:
        if key in learner:
            parts.append(f"{name} {form.format(learner[key])}")
    parts += filter(None, [counts_text(status.data)])
    if learner.get("eta_s", 0) > 0:
        parts.append(f"left {clock(learner['eta_s'])}")
    return "  ".join(parts)


def panel(
    status: Status | None,
    elapsed_s: float,
    waits: Mapping[str, str] | None = None,
    width: int = 100,
) -> Panel:
    """The whole picture: progress, learning, the queue, who takes part, and what is waited for.

    Args:
        status: None means that the broker has not been heard yet.
        waits: lines by key.
        width: characters.
    """
    waits = waits or {}
    lines = [Text(printable(line), style="yellow") for line in waits.values()]
    hint = "" if DRAINING in waits else " - Ctrl-C drains and ends"
    if status is None:
        starting = lines or [Text("the broker starts")]
        return Panel(
            Group(*starting), title="starting", subtitle=f"{clock(elapsed_s)}{hint}", width=width
        )
    learner = learner_of(status)
    phase = DRAINING if DRAINING in waits else phase_of(learner)
    left = f", {clock(learner['eta_s'])} left" if learner.get("eta_s", 0) > 0 else ""
    if DRAINING in waits:
        left = ""
    parts: tuple[RenderableType, ...] = (
        _progress(status, width),
        _learning(learner),
        _queue(status),
        *_data(status),
        _members(status),
    )
    return Panel(
        Group(*parts, *lines),
        title=_plain(f"{status.run_id} - {phase}"),
        subtitle=f"{clock(elapsed_s)}{left}{hint}",
        width=width,
    )


def _progress(status: Status, width: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    bar = ProgressBar(
        total=max(1, status.total_steps), completed=status.version, width=max(10, width - 40)
    )
    grid.add_row("step", f"{status.version}/{status.total_steps}", bar)
    return grid


def _learning(learner: Gauges) -> Table:
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    names = ["loss", "grad norm", "lr", "full image", "evidence crop"]
    if "accuracy_version" in learner:
        names.append("of step")
    for name in names:
        table.add_column(name, justify="right")
    table.add_row(
        _text(learner, "loss_nats", "{:.4f}"),
        _text(learner, "grad_norm", "{:.2f}"),
        _text(learner, "lr", "{:.1e}"),
        _change(learner, "full_accuracy"),
        _change(learner, "crop_accuracy"),
        *([_text(learner, "accuracy_version", "{:.0f}")] if "accuracy_version" in learner else ()),
    )
    return table


def _queue(status: Status) -> Table:
    """Groups, one a sample and epoch, by where they are; and the staleness of what was trained."""
    counts = status.counts
    given_back = status.data.given_back_groups
    table = Table(box=None, padding=(0, 1), show_header=True, header_style="dim")
    columns = {
        "": "groups",
        "slots": f"{status.slots_used}/{status.slots}",
        "in flight": str(counts.get("samples_in_flight", 0)),
        "waiting": str(counts.get("samples_waiting", 0)),
        "trained": str(counts.get("samples_trained", 0)),
        "expired": str(counts.get("samples_expired", 0) - given_back),
        "quarantined": str(counts.get("samples_quarantined", 0)),
        "stale": f"{status.max_staleness_seen} seen",
    }
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(*columns.values())
    return table


def _data(status: Status) -> list[Text]:
    """Lines on what cannot be used and on what is tried again, if any."""
    lines = (counts_text(status.data), retry_text(status.data))
    return [_plain(f" {line}") for line in lines if line]


def _members(status: Status) -> Table:
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    for name in ("process", "version", "tokens/s", "idle", "last heard"):
        table.add_column(name, justify="left" if name == "process" else "right")
    for member in status.members:
        if member.role is Role.OBSERVER:
            continue
        table.add_row(
            _plain(member.member_id),
            _version(member, status),
            _text(member.gauges, "tokens_per_s", "{:.0f}"),
            _text(member.gauges, "idle_share", "{:.0%}"),
            f"{member.silent_s:.0f} s",
        )
    return table


def _version(member: MemberStatus, status: Status) -> str:
    if member.role is Role.LEARNER:
        return str(status.version)
    return "none yet" if member.acknowledged_version < 0 else str(member.acknowledged_version)


def learner_of(status: Status) -> Gauges:
    for member in status.members:
        if member.role is Role.LEARNER:
            return member.gauges
    return {}


def phase_of(learner: Gauges) -> str:
    number = learner.get("phase", 0.0)
    is_known = 0 <= number < len(PHASES)  # false for NaN
    return PHASES[int(number)] if is_known else PHASES[-1]


def _plain(text: str) -> Text:
    """Text as it is: the names of peers are neither markup nor commands."""
    return Text(printable(text))


def _text(gauges: Gauges, key: str, form: str) -> str:
    return form.format(gauges[key]) if key in gauges else "-"


def _change(learner: Gauges, key: str) -> str:
    if key not in learner:
        return "-"
    before = learner.get(f"{key}_before")
    return f"{before:.1%} > {learner[key]:.1%}" if before is not None else f"{learner[key]:.1%}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
