"""The figures that a study shows of a run: where each is found, and how it is written."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.planning.accounting import account_of, measured_figures
from deploy.planning.run_files import read_run

Figures = dict[str, float | None]  # by column; None where the run does not have it


@dataclass(frozen=True)
class Column:
    title: str
    key: str  # in summary.json or in deploy.explain's figures
    unit: str = ""  # "share": written in percent
    digits: int = 0

    def text(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.unit == "share" else f"{value:,.{self.digits}f}"

    def difference(self, value: float) -> str:
        """With its sign, and of shares in points."""
        scaled = 100 * value if self.unit == "share" else value
        return f"{scaled:+,.{1 if self.unit == 'share' else self.digits}f}"


COLUMNS: Mapping[str, Column] = {
    "full_before": Column("full before", "full_accuracy_before", "share"),
    "full_after": Column("full after", "full_accuracy_after", "share"),
    "crop_before": Column("crop before", "crop_accuracy_before", "share"),
    "crop_after": Column("crop after", "crop_accuracy_after", "share"),
    "gap_closed": Column("gap closed", "gap_closed", "share"),
    "steps": Column("steps", "steps"),
    "seconds": Column("seconds", "seconds"),
    "learner_idle": Column("learner idle", "learner_idle_share", "share"),
    "rollout_idle": Column("rollout idle", "rollout_idle_share", "share"),
    "staleness_mean": Column("staleness, mean", "staleness_mean", digits=2),
    "staleness_max": Column("staleness, highest", "staleness_max"),
    "expired": Column("trajectories expired", "trajectories_expired"),
}
DEFAULT_COLUMNS = tuple(name for name in COLUMNS if name not in ("staleness_max", "expired"))


@functools.cache  # of a run that is over nothing changes
def figures_of(folder: Path) -> Figures:
    """Every column's figure of a run that is over.

    Raises:
        ConfigError: no run is there.
    """
    run = read_run(folder)
    told = (run.summary or {}) | measured_figures(run, account_of(run))
    return {name: _number(told.get(column.key)) for name, column in COLUMNS.items()}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
