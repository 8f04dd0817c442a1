"""A status as people read it: one line, and how its figures are written."""

from broker.protocol import Gauges, Role, Status
from deploy.showing.data_notes import counts_text

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


def learner_of(status: Status) -> Gauges:
    for member in status.members:
        if member.role is Role.LEARNER:
            return member.gauges
    return {}


def phase_of(learner: Gauges) -> str:
    number = learner.get("phase", 0.0)
    is_known = 0 <= number < len(PHASES)  # false for NaN
    return PHASES[int(number)] if is_known else PHASES[-1]


def figure_text(gauges: Gauges, key: str, form: str) -> str:
    """A gauge, or "-" where there is none."""
    return form.format(gauges[key]) if key in gauges else "-"


def change_text(learner: Gauges, key: str) -> str:
    """A share, and what it was before training."""
    if key not in learner:
        return "-"
    before = learner.get(f"{key}_before")
    return f"{before:.1%} > {learner[key]:.1%}" if before is not None else f"{learner[key]:.1%}"


def clock(seconds: float) -> str:
    """Minutes and seconds, from an hour on with hours: 2:05, 1:12:01."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: float) -> str:
    """Short, for people: 42 s, 3 min, 2 h 10 min, 3 d 4 h."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    if minutes < 90:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
