"""What the launcher prints when a run has ended."""

import json
from pathlib import Path
from typing import Any

from deploy.showing.data_lines import data_lines
from deploy.showing.report import write_report


def show_outcome(folder: Path) -> None:
    """Write the report and print the short summary, as far as the run got."""
    summary = read_summary(folder)
    if summary is None:
        print(f"the run ended before there was anything to report: {folder}")
        return
    report = write_report(folder)
    print(outcome_text(summary))
    print(f"report: {report}")


def read_summary(folder: Path) -> dict[str, object] | None:
    """What the learner wrote at its end. None means that it did not get there."""
    try:
        summary: dict[str, object] = json.loads((folder / "summary.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return summary


def outcome_text(summary: dict[str, Any]) -> str:
    """A few lines: what it could do before and after, and what that took."""
    rows = [
        ("full image", summary["full_accuracy_before"], summary["full_accuracy_after"]),
        ("evidence crop", summary["crop_accuracy_before"], summary["crop_accuracy_after"]),
    ]
    lines = [""]
    if any(share is not None for _, *shares in rows for share in shares):
        lines.append(f"{'held-out accuracy':<20}{'before':>8}{'after':>8}")
        lines += [
            f"{name:<20}{_percent(before):>8}{_percent(after):>8}" for name, before, after in rows
        ]
        lines.append(f"{'gap closed':<20}{'':>8}{_percent(summary['gap_closed']):>8}")
        lines += _cut_lines(summary)
    given_back = summary.get("trajectories_given_back")
    lines.append(
        f"{summary['steps']} steps in {_number(summary['seconds']):.0f} s; "
        f"trajectories: {summary['trajectories_trained']} trained, "
        f"{summary['trajectories_expired']} expired"
        + (f", {given_back} given back by servers that stopped" if given_back else "")
        + f"; staleness up to {summary['max_staleness_seen']}"
        + (" (interrupted)" if summary["interrupted"] else "")
    )
    return "\n".join([*lines, *data_lines(summary)])


def _cut_lines(summary: dict[str, object]) -> list[str]:
    """Shares of answers that the length limit cut, if any was."""
    lines = []
    for name, key in (("full image, cut", "full_cut_share"), ("crop, cut", "crop_cut_share")):
        before, after = summary.get(f"{key}_before"), summary.get(f"{key}_after")
        if before or after:
            lines.append(f"{name:<20}{_percent(before):>8}{_percent(after):>8}")
    if lines:
        lines.append("(cut: answers that evaluation.max_response_tokens ended)")
    return lines


def _percent(share: object) -> str:
    return f"{share:.1%}" if isinstance(share, int | float) else "-"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
