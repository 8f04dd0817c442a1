"""Lines on the data at the end of a run, for terminal and report."""

from typing import Any


def data_lines(summary: dict[str, Any]) -> list[str]:
    """What was not trained, and why; empty if all was."""
    refused, quarantined = summary.get("data_rows_refused"), summary.get("samples_quarantined")
    lines = []
    if refused or quarantined:
        lines.append(
            f"of {summary['data_rows']} rows {refused} refused when they were read, {quarantined} "
            "quarantined since; all reasons: quarantine.jsonl. The first:"
        )
        lines += [f"  {line}" for line in summary.get("first_refused") or ()]
    left = summary.get("groups_left_over")
    if left and not summary.get("interrupted"):
        lines.append(
            f"{left} of {summary['groups_total']} groups (samples x data.epochs) are left over: "
            "too few for one more step of learner.groups_per_step"
        )
    if summary.get("data_fault"):
        lines.append(f"the run ended because of its data: {summary['data_fault']}")
    return lines
