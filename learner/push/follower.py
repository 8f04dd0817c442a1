"""What a rank that does not write does in a weight push: it helps to bring the shards together."""

from learner.push.buckets import Snapshot
from learner.push.expectations import Expectations
from learner.push.pusher import Pusher


class Follower(Pusher):
    """Calls what the publisher calls on rank 0, where that takes all ranks.

    Args:
        snapshot: keeps nothing on this rank.
        checks: makes the probes, each a forward pass of all ranks.
    """

    publish_s: float | None = None
    stall_s: float = 0.0

    def __init__(self, snapshot: Snapshot, checks: Expectations) -> None:
        self._snapshot = snapshot
        self._checks = checks

    def __exit__(self, *_: object) -> None:
        return

    def push(self, version: int, is_measured: bool = False) -> None:
        self._checks.probes()
        self._snapshot.begin()

    def wait_for_snapshot(self) -> None:
        """Return at once: `push` has copied the shards."""

    def wait(self) -> None:
        """Return at once: rank 0 alone sends."""

    def push_again_if_behind(self) -> None:
        """Do nothing: rank 0 has the copy that is sent again."""
