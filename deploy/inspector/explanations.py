"""What limits a run, and what was planned for it, for the inspector's pages."""

from pathlib import Path
from typing import Any

from common.errors import VisionOpdError

_ERRORS = (VisionOpdError, OSError, ValueError, LookupError, TypeError, ArithmeticError)


def explanation(run: Path) -> dict[str, Any]:
    """The answer of `explain`: what limits the run, and the page of deploy.explain."""
    from deploy.explain import explained

    try:
        sentence, text = explained(run)
    except _ERRORS as error:  # a run of an older format, or half of one
        return {"sentence": "", "text": f"not known: {error or type(error).__name__}"}
    return {"sentence": sentence, "text": text}


def plan(run: Path) -> dict[str, Any]:
    """The answer of `plan`: RUN/plan.json, and its predictions as a table."""
    from deploy.planning.explain_text import read_plan

    try:
        found = read_plan(run, None)
        if found is None:
            text = f"no plan was kept. Fix: deploy.plan --json {run}/plan.json"
            return {"text": text, "plan": None}
        return {"text": _table(found["predictions"]), "plan": dict(found)}
    except _ERRORS as error:
        return {"text": f"not known: {error or type(error).__name__}", "plan": None}


def _table(predictions: list[dict[str, Any]]) -> str:
    from deploy.planning.tables import duration, percent, seconds, table

    rows = [("servers", "ranks", "max staleness", "step", "learner idle", "rollout idle", "run")]
    for found in predictions:
        rows.append(
            (
                str(found["servers"]),
                str(found["ranks"]),
                str(found["max_staleness"]),
                seconds(found["step_s"]),
                percent(found["learner_idle_share"]),
                percent(found["rollout_idle_share"]),
                duration(found["total_s"]),
            )
        )
    return "\n".join(table(rows)) + "\n"
