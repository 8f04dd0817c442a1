"""Groups with other trajectories or columns than they had, for tests."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common.group import Group, Responses, Trajectory


def with_trajectories(group: Group, trajectories: Sequence[Trajectory]) -> Group:
    return replace(group, responses=Responses.of(tuple(trajectories)))


def with_first(group: Group, **fields: Any) -> Group:
    """The first trajectory has other `fields`."""
    first, *others = group.trajectories
    return with_trajectories(group, [replace(first, **fields), *others])


def with_columns(group: Group, **columns: Any) -> Group:
    """Unchecked: what no honest process makes."""
    return replace(group, responses=replace(group.responses, **columns))
