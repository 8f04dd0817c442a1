"""What ranks other than the first do in a weight push: help to bring the shards together."""

from types import TracebackType

from learner.push.buckets import Snapshot
from learner.push.expectations import Expectations


class Follower:
    """Takes the publisher's place on a rank that pushes nothing; its calls meet the publisher's.

    Args:
        snapshot: that keeps nothing.
        checks: the probe is a forward pass, and so takes all ranks.
    """

    publish_s: float | None = None
    stall_s: float = 0.0

    def __init__(self, snapshot: Snapshot, checks: Expectations) -> None:
        self._snapshot = snapshot
        self._checks = checks

    def __enter__(self) -> "Follower":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def push(self, version: int, is_measured: bool = False) -> None:
        self._checks.probes()
        self._snapshot.begin()

    def wait_for_snapshot(self) -> None:
        """The shards were copied in `push`."""

    def wait(self) -> None:
        """Nothing is under way."""

    def mend(self) -> None:
        """That is the publisher's."""
