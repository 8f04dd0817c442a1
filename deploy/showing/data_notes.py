"""Lines on rows and samples that are refused, quarantined or tried again."""

from collections.abc import Callable

from broker.protocol import DataStatus, Status


class DataNotes:
    """A view beside the others: prints each new thing once.

    The first few reasons are printed at once; of later ones the other views have the count. Failed
    attempts are printed at the 1st, the 2nd, the 4th and so on: a flood stays short.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._told: set[str] = set()
        self._num_failures = 0  # when they were printed last

    def update(self, status: Status, elapsed_s: float) -> None:
        data = status.data
        for line in data.first:
            if line not in self._told:
                self._told.add(line)
                self._write(line)
        is_worth_it = data.failed_attempts >= max(1, 2 * self._num_failures)
        if is_worth_it and data.retried_groups:
            self._num_failures = data.failed_attempts
            self._write(retry_text(data))
        if data.ended_because and data.ended_because not in self._told:
            self._told.add(data.ended_because)
            self._write(f"the run ends: {data.ended_because}")


def counts_text(data: DataStatus) -> str:
    """How many rows and samples cannot be used; empty if all can."""
    parts = [
        _count(number, noun) + f" {what}"
        for number, noun, what in (
            (data.refused_rows, "row", "refused"),
            (data.quarantined_samples, "sample", "quarantined"),
        )
        if number
    ]
    return f"{', '.join(parts)} of {data.rows} rows" if parts else ""


def retry_text(data: DataStatus) -> str:
    """What is tried again, and why; empty if nothing is."""
    if not data.retried_groups:
        return ""
    return (
        f"trying {_count(data.retried_groups, 'group')} again "
        f"({_count(data.failed_attempts, 'failed attempt')} so far, the last: {data.last_failure})"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
