"""The samples that the next steps will train on, known before the broker hands them out.

The broker gives every step the first groups that are left, in the order of its sample source, and
that order depends on the dataset and the seed alone. A group that is quarantined makes later ones
move up; counting on from the last group that was taken allows for that.

Several ranks share a step by the tokens that were generated, which are not known ahead: each rank
foresees all of a step, and what turns out to be another's is the first to leave its cache. So every
rank renders every view, by processes that have nothing else to do.
"""

from dataclasses import dataclass

from common.source import SampleSource
from common.types import Sample
from common.views.showing import derived_seed

STEPS_AHEAD = 2


@dataclass(frozen=True)
class Window:
    """What will be needed next, the first first."""

    samples: list[Sample]
    seeds: list[int]  # of each group's own draws, as `Preparation` derives them


class UpcomingSamples:
    """The samples of the next steps, by the order of the data. Not thread-safe.

    Args:
        groups_per_step: groups of all ranks together.
    """

    def __init__(self, source: SampleSource, run_seed: int, groups_per_step: int) -> None:
        self._source = source
        self._run_seed = run_seed
        self._groups_per_step = groups_per_step

    def after(self, step: int, last_group_id: str | None = None) -> Window:
        """The window of the next STEPS_AHEAD steps; fewer groups at the end of the data.

        Args:
            step: the last step that was trained.
            last_group_id: "<epoch>/<position>" of the last group that this rank had of it, which
                may lie further on; None means unknown.
        """
        start = step * self._groups_per_step
        if last_group_id is not None:
            epoch, position = map(int, last_group_id.split("/"))
            start = max(start, epoch * len(self._source.samples) + position + 1)
        return self._window(start)

    def _window(self, start: int) -> Window:
        end = min(start + STEPS_AHEAD * self._groups_per_step, self._source.num_groups)
        assignments = [self._source.at(index) for index in range(start, end)]
        seeds = [derived_seed(self._run_seed, a.group_id) for a in assignments]
        return Window([a.sample for a in assignments], seeds)
