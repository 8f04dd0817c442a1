"""The samples that the next steps will train on, known before the broker hands them out.

The broker gives every step the first groups that are left, in the order of its sample source, and
that order depends on the dataset and the seed alone. A group that is quarantined makes later ones
move up; counting on from the last group that was taken allows for that.
"""

from dataclasses import dataclass

from broker.source import SampleSource
from broker.training_data import foreseen_source
from common.config import RunConfig
from common.types import Sample
from common.views.showing import derived_seed

STEPS_AHEAD = 2


@dataclass(frozen=True)
class Window:
    """What will be needed next, the first first."""

    samples: list[Sample]
    seeds: list[int]  # of each group's own draws, as `Preparation` derives them


class UpcomingSamples:
    """For a learner of a single rank: the ranks of several share each step. Not thread-safe.

    Args:
        num_groups: in a window; fewer at the end of the data.
    """

    def __init__(self, source: SampleSource, run_seed: int, num_groups: int) -> None:
        self._source = source
        self._run_seed = run_seed
        self._num_groups = num_groups

    def from_step(self, step: int, groups_per_step: int) -> Window:
        """When training goes on from `step`, unless a group was quarantined before it."""
        return self._window(step * groups_per_step)

    def after(self, group_id: str) -> Window:
        """After the last group of a step, "<epoch>/<position>"."""
        epoch, position = map(int, group_id.split("/"))
        return self._window(epoch * len(self._source.samples) + position + 1)

    def _window(self, start: int) -> Window:
        end = min(start + self._num_groups, self._source.num_groups)
        assignments = [self._source.at(index) for index in range(start, end)]
        seeds = [derived_seed(self._run_seed, a.group_id) for a in assignments]
        return Window([a.sample for a in assignments], seeds)


def upcoming_samples(config: RunConfig) -> UpcomingSamples:
    """Those of the next STEPS_AHEAD steps of a run. Raises as `foreseen_source`."""
    num_groups = STEPS_AHEAD * config.learner.groups_per_step
    return UpcomingSamples(foreseen_source(config), config.run.seed, num_groups)
