"""What happened in a run as a page of text: its limit, where the time went, the plan, advice."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from broker.protocol import Status
from common.errors import ConfigError
from deploy.planning.accounting import Account, account_of, measured_figures
from deploy.planning.limit import limit
from deploy.planning.run_files import RunFiles
from deploy.planning.tables import duration, percent, seconds, table
from deploy.planning.verdict import verdict

_ADVICE = (
    "What would make a step faster, by its rates (the first step, start-up, measuring left out)"
)


def sentence(run: RunFiles, status: Status | None = None, waits: Sequence[str] = ()) -> str:
    """What limits a run now (a run that is over: as a whole) and what to turn, in one sentence.

    Pure, and cheap where `read_run` read only the end of the run's files.

    Args:
        status: the broker's, of a run that goes on; None where it cannot be asked.
        waits: lines on what it waits for, as the launcher tells them.
    """
    return limit(run, status, waits)


def page(
    run: RunFiles,
    plan: Mapping[str, Any] | None,
    status: Status | None = None,
    waits: Sequence[str] = (),
) -> str:
    """The page that says what limits a run and where its time went.

    Args:
        plan: as `deploy.plan --json` wrote it; None means that there is none.
        status, waits: as for `sentence`.
    """
    account = account_of(run)
    idle = None  # a run that goes on is judged by its last steps, the account has all of them
    if run.is_over and account.rollout is not None:
        idle = 1 - account.rollout.busy_share
    lines = [
        limit(run, status, waits, idle),
        "",
        _headline(run, account),
        "",
        "Where the learner's time went",
        *_where(account),
        "",
    ]
    lines += ["What the rollout servers did", *_rollout(account), ""]
    if plan is not None:
        lines += ["Against the plan", *_against(run, account, plan), ""]
    lines += [_ADVICE, *(f"  {line}" for line in verdict(run, account))]
    return "\n".join(lines) + "\n"


def read_plan(folder: Path, file: Path | None) -> Mapping[str, Any] | None:
    """The plan of a run, if there is one.

    Raises:
        ConfigError: the file is none, or a named one is not there.
    """
    path = file or folder / "plan.json"
    if file is None and not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(plan, dict) or not isinstance(plan["predictions"], list):
            raise ValueError("it has no predictions")
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"--plan {path}: {error}. Fix: make it with python -m deploy.plan --json FILE"
        ) from None
    return plan


# ---- parts of the page ---------------------------------------------------------------------------
def _headline(run: RunFiles, account: Account) -> str:
    steps = len(run.steps)
    state = "over" if run.is_over else "not over"
    return f"{run.folder.name}: {steps} steps in {duration(account.wall_s)}, {state}"


def _where(account: Account) -> list[str]:
    rows = [
        (name, seconds(spent), percent(account.share(name)))
        for name, spent in account.parts.items()
    ]
    return table([*rows, ("together", seconds(account.wall_s), "100 %")], left=1)


def _rollout(account: Account) -> list[str]:
    rollout = account.rollout
    if rollout is None:
        return ["  not known: the run kept no journal, or has trained no step yet"]
    rows = [
        ("servers, on average", f"{rollout.servers:.1f}"),
        ("busy generating", percent(rollout.busy_share)),
        ("idle", percent(1 - rollout.busy_share)),
        ("groups generated", f"{rollout.groups:,}"),
        ("from lease to submission", seconds(rollout.seconds_a_group)),
        ("groups that came to nothing", f"{rollout.expired:,}"),
    ]
    return table(rows, left=1)


def _against(run: RunFiles, account: Account, plan: Mapping[str, Any]) -> list[str]:
    prediction = _prediction_for(run, plan)
    if prediction is None:
        return ["  the plan says nothing of this number of servers, ranks and max_staleness"]
    found = measured_figures(run, account)
    rows = [("", "predicted", "happened", "off by")]
    for name, key, form in (
        ("step", "step_s", seconds),
        ("learner idle", "learner_idle_share", percent),
        ("rollout idle", "rollout_idle_share", percent),
        ("staleness, mean", "staleness_mean", _plain),
        ("staleness, max", "staleness_max", _plain),
        ("whole run", "total_s", duration),
    ):
        expected, happened = prediction.get(key), found.get(key)
        if expected is None or happened is None:
            continue
        off = f"{100 * (expected / happened - 1):+.0f} %" if key.endswith("_s") and happened else ""
        rows.append((name, form(expected), form(happened), off))
    return table(rows, left=1)


def _prediction_for(run: RunFiles, plan: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The one of this run's split."""
    config = run.config
    wanted = (config.rollout.servers, config.learner.ranks, config.broker.max_staleness)
    for prediction in plan["predictions"]:
        if tuple(prediction.get(k) for k in ("servers", "ranks", "max_staleness")) == wanted:
            found: Mapping[str, Any] = prediction
            return found
    return None


def _plain(value: float) -> str:
    return f"{value:.1f}"
