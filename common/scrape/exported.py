"""Every figure that a process may tell Prometheus, by its name in this project."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.metrics import METRICS, Over

_PREFIX = "vision_opd"
_OF_ONE_SERVER = (Over.SERVERS, Over.SERVERS_TOTAL)


@dataclass(frozen=True)
class Exported:
    """A figure, or several that differ in one label."""

    name: str  # area/name_unit, as in `common.metrics`
    meaning: str
    label: str = ""  # tells its figures apart; empty: there is one
    is_counter: bool = False  # it only grows while its process lives

    @property
    def series(self) -> str:
        """Its name in Prometheus, which wants seconds written out and a counter's end."""
        name = _in_prometheus(self.name)
        return f"{name}_total" if self.is_counter and not name.endswith("_total") else name


def _in_prometheus(name: str) -> str:
    """vision_opd_AREA_NAME_UNIT of area/name_unit."""
    parts = [_PREFIX, *re.split(r"\W|_", name)]
    for place, part in enumerate(parts):
        if part == "s":
            parts[place] = "second" if parts[place - 1] == "per" else "seconds"
    return "_".join(parts)


def _of_metrics() -> Iterable[Exported]:
    """The figures of rows; those that are text are none for Prometheus."""
    for metric in METRICS.values():
        if metric.unit != "text":
            unit = f" ({metric.unit})" if metric.unit else ""
            label = "server" if metric.over in _OF_ONE_SERVER else ""
            yield Exported(metric.name, metric.meaning + unit, label)


_BROKER = (
    Exported("broker/version", "steps that the learner has trained"),
    Exported("broker/steps_planned", "steps that the run has in all"),
    Exported("broker/committed_version", "newest step that a checkpoint holds"),
    Exported("broker/is_finished", "1 once the run is over"),
    Exported("broker/run_s", "how long the run has lasted, over all lives of its broker"),
    Exported("broker/slots", "groups that may be between lease and training"),
    Exported("broker/staleness_max_steps", "greatest staleness of the run"),
    Exported("broker/samples", "samples by where they are", "state"),
    Exported("broker/trajectories", "trajectories by where they are", "state"),
    Exported("broker/tokens", "response tokens by where their trajectory is", "state"),
    Exported("broker/samples_issued", "samples leased", is_counter=True),
    Exported("broker/trajectories_issued", "trajectories leased", is_counter=True),
    Exported("broker/tokens_issued", "response tokens submitted", is_counter=True),
    Exported("broker/trajectories_expired", "trajectories that expired", "reason", is_counter=True),
    Exported("broker/groups_never_issued", "groups that were never leased"),
    Exported("broker/groups_to_issue_again", "groups that wait to be leased again"),
    Exported("broker/members", "processes that take part", "kind"),
    Exported("broker/members_lost", "processes that are silent and count as gone"),
    Exported("broker/member_silent_s", "since a member was last heard", "member"),
    Exported("broker/member_version", "newest version that a rollout server serves", "member"),
    Exported("broker/rows_refused", "rows of the data that cannot be used"),
    Exported("broker/samples_quarantined", "different samples that no step will train"),
    Exported("broker/attempts_failed", "failed attempts at a group", is_counter=True),
    Exported("broker/store_failed", "1 while the disk does not take what must be kept"),
    Exported("broker/journal_bytes", "size of the journal"),
    Exported("broker/journal_records", "decisions in the journal"),
    Exported("broker/segment_bytes", "size of the trajectories on disk"),
    Exported("broker/syncs", "times that the disk was waited for", is_counter=True),
    Exported("broker/held_groups", "groups whose trajectories are kept"),
    Exported("broker/held_bytes", "size of the trajectories kept in memory"),
)
_ROLLOUT = (
    Exported("rollout/serving_version", "step of the weights served; -1: none", "server"),
    Exported("rollout/trajectories_total", "trajectories handed in", "server", is_counter=True),
    Exported("rollout/tokens_total", "response tokens handed in", "server", is_counter=True),
)
_LEARNER = (
    Exported("learner/step", "the step that its figures are of"),
    Exported("learner/time_s", "from the learner's beginning to the end of that step"),
)
_LAUNCHER = (
    Exported("launcher/processes", "processes by what they do", "state"),
    Exported("launcher/restarts", "times that a process was started again", "of", is_counter=True),
)
EXPORTED = {
    family.name: family for family in (*_of_metrics(), *_BROKER, *_ROLLOUT, *_LEARNER, *_LAUNCHER)
}
