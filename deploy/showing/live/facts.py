"""All that a picture of a run is drawn from, and the answers that several views need."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.protocol import Gauges, MemberStatus, Role, Status
from common.figure_rows import Row
from common.metrics import METRICS
from deploy.showing.picture import learner_of, phase_of
from deploy.showing.situation import DRAINING
from deploy.supervision.process_table import Entry


@dataclass(frozen=True)
class UnusableSamples:
    """What no step will train."""

    total: int = 0
    reasons: tuple[str, ...] = ()  # a line each, the first and the latest ones


@dataclass(frozen=True)
class FolderFacts:
    """What the run folder says, as far as the view that is shown needs it."""

    steps: tuple[Row, ...] = ()  # the last training rows
    measurements: tuple[Row, ...] = ()
    sentence: str = ""  # what limits the run; empty: not known
    quarantine: UnusableSamples = UnusableSamples()
    processes: tuple[Entry, ...] = ()
    log_lines: tuple[tuple[str, str], ...] = ()  # process and its last warnings, the latest last
    problem: str = ""  # why some of it cannot be read; empty: all can


@dataclass(frozen=True)
class Facts:
    """A moment of a run."""

    status: Status | None  # the broker's last answer; None if there was none
    elapsed_s: float
    waits: Mapping[str, str] = field(default_factory=dict)  # lines by key, as `Situation` has them
    folder: FolderFacts = FolderFacts()
    mark: str = ""  # why this is not the present; empty: it is
    name: str = ""  # of the run, until the broker tells it

    @property
    def learner(self) -> Gauges:
        """The learner's gauges: from its heartbeat, or else from the last rows of its metrics."""
        if self.status is not None and (gauges := learner_of(self.status)):
            return gauges
        rows = (*self.folder.measurements[-1:], *self.folder.steps[-1:])
        return {
            metric.gauge: row[metric.name]
            for row in rows
            for metric in METRICS.values()
            if metric.gauge and isinstance(row.get(metric.name), int | float)
        }

    @property
    def seconds(self) -> float:
        """How long the run has lasted: by its last row where the launcher does not say."""
        if self.elapsed_s or not self.folder.steps:
            return self.elapsed_s
        return float(self.folder.steps[-1]["time_s"])

    @property
    def run_name(self) -> str:
        return self.status.run_id if self.status is not None else self.name

    @property
    def phase(self) -> str:
        if DRAINING in self.waits:
            return DRAINING
        if self.mark:
            return "not running"
        return phase_of(self.learner)

    @property
    def version(self) -> int:
        """The learner's, in steps."""
        if self.status is not None:
            return self.status.version
        return int(self.folder.steps[-1]["step"]) if self.folder.steps else 0

    @property
    def rollouts(self) -> list[MemberStatus]:
        members = () if self.status is None else self.status.members
        return [member for member in members if member.role is Role.ROLLOUT]

    def is_behind(self, member: MemberStatus) -> bool:
        """Whether a server does not have the newest weights yet."""
        return self.status is not None and member.acknowledged_version < self.status.version

    def columns_of(self, *names: str, rows: tuple[Row, ...] | None = None) -> dict[str, list[Any]]:
        """Figures of the rows by metric, where there are any."""
        taken = self.folder.steps if rows is None else rows
        found = {
            name: [row[name] for row in taken if isinstance(row.get(name), int | float)]
            for name in names
        }
        return {name: values for name, values in found.items() if values}
