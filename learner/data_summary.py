"""What became of the data set, for summary.json: counts with their unit, and first reasons."""

from typing import Any

from broker.protocol import Status
from common.data_health import nothing_trained

_RETURNED = "member_left"  # leases that a server gave back in good order: nothing was lost


def data_summary(status: Status | None, is_interrupted: bool) -> dict[str, Any]:
    """The part of summary.json that is about the data.

    Args:
        status: the broker's last; None means that it no longer answered.
        is_interrupted: by a person, or by the broker because the data are too bad.

    Returns:
        trajectories_trained, trajectories_expired (their work was lost, without those of
        trajectories_given_back by servers that left in good order), data_rows (of the file),
        data_rows_refused (when it was read), samples_quarantined (different ones),
        first_refused (reasons), groups_left_over (too few for one more step), groups_total (samples
        times epochs), data_fault (the fault of the data that ended the run, if any). None
        where it is not known.
    """
    if status is None:
        return dict.fromkeys(_KEYS)
    data, counts = status.data, status.counts
    given_back = status.expired_by_reason.get(_RETURNED, 0)
    trained = counts.get("trajectories_trained", 0)
    fault = data.ended_because or None
    if fault is None and not is_interrupted and trained == 0:
        fault = nothing_trained(data.first)
    values = (
        trained,
        counts.get("trajectories_expired", 0) - given_back,
        given_back,
        data.rows,
        data.refused_rows,
        data.quarantined_samples,
        list(data.first),
        data.left_over_groups,
        data.all_groups,
        fault,
    )
    return dict(zip(_KEYS, values, strict=True))


_KEYS = (
    "trajectories_trained", "trajectories_expired", "trajectories_given_back", "data_rows",
    "data_rows_refused", "samples_quarantined", "first_refused", "groups_left_over", "groups_total",
    "data_fault",
)  # fmt: skip
