"""Where a run's time went: seconds of the learner's clock, from its start on, that add up.

Each second of a training row belongs to one part; what no row tells (steps that were undone,
restarts, writing figures and the last checkpoint) is "other".
"""

from dataclasses import dataclass
from statistics import fmean

from deploy.planning.journal_facts import JournalFacts, read_journal
from deploy.planning.measured import startup_of, step_seconds
from deploy.planning.rates import STEP_PARTS
from deploy.planning.run_files import RunFiles

# Metrics by name, in the order in which they are shown.
_METRICS = {
    "waiting for samples": "learner/wait_batch_s",
    **{part.name: part.metric for part in STEP_PARTS},
    "checkpoint": "checkpoint/stall_s",
}


@dataclass(frozen=True)
class Rollout:
    """The servers' side between the start of the first step and the end of the last one."""

    servers: float  # mean number
    busy_share: float  # of the time, with a group in flight
    groups: int
    seconds_a_group: float  # from lease to submission
    expired: int


@dataclass(frozen=True)
class Account:
    wall_s: float
    parts: dict[str, float]  # seconds; their sum is wall_s
    rollout: Rollout | None  # None means that the run kept no journal
    journal: JournalFacts | None

    def share(self, name: str) -> float:
        return self.parts[name] / self.wall_s if self.wall_s else 0.0


def account_of(run: RunFiles) -> Account:
    """The account of a run that is over, or of what there is of one that goes on."""
    wall_s, parts = seconds_of(run)
    journal = read_journal(run.folder)
    rollout = None if journal is None else _rollout(journal, run)
    return Account(wall_s, parts, rollout, journal)


def seconds_of(run: RunFiles) -> tuple[float, dict[str, float]]:
    """An account's `wall_s` and `parts`, by the rows alone."""
    wall_s = max((row["time_s"] for row in run.rows), default=0.0)
    if run.summary is not None:
        wall_s = max(wall_s, float(run.summary.get("seconds") or 0.0))
    parts = {"start-up": startup_of(run) or 0.0}
    for name, key in _METRICS.items():
        parts[name] = sum(row.get(key) or 0.0 for row in run.steps)
    parts["evaluation"] = sum(row["evaluation/stall_s"] for row in run.measurements)
    parts["other"] = max(0.0, wall_s - sum(parts.values()))
    return wall_s, parts


def _rollout(journal: JournalFacts, run: RunFiles) -> Rollout | None:
    if not journal.acknowledged_s:
        return None
    first = min(journal.acknowledged_s)
    begin_s = journal.acknowledged_s[first]
    row = next((row for row in run.steps if row["step"] == first), None)
    if row is not None:
        begin_s -= row["learner/step_s"]
    end_s = max(journal.acknowledged_s.values())
    busy = journal.busy_share(begin_s, end_s)
    groups = journal.generations
    if busy is None or not groups or end_s <= begin_s:
        return None
    return Rollout(
        journal.alive_s(begin_s, end_s) / (end_s - begin_s),
        busy,
        len(groups),
        sum(group.end_s - group.begin_s for group in groups) / len(groups),
        journal.expired,
    )


def measured_figures(run: RunFiles, account: Account) -> dict[str, float]:
    """What happened, by the names of a prediction."""
    found: dict[str, float] = {}
    if periods := step_seconds(run):
        found["step_s"] = fmean(periods)
    if rows := run.steps[1:]:
        waited = sum(row["learner/wait_batch_s"] for row in rows)
        total = waited + sum(row["learner/step_s"] for row in rows)
        found["learner_idle_share"] = waited / total if total else 0.0
        ages = [row["staleness/mean_steps"] for row in run.steps if "staleness/mean_steps" in row]
        if ages:
            found["staleness_mean"] = fmean(ages)
            found["staleness_max"] = max(row.get("staleness/max_steps", 0) for row in run.steps)
    if account.rollout is not None:
        found["rollout_idle_share"] = 1 - account.rollout.busy_share
    if run.is_over:
        found["total_s"] = account.wall_s
    return found
