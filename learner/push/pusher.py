"""How every rank takes part in weight pushes: rank 0 publishes, the others follow."""

from contextlib import AbstractContextManager
from typing import Any, Protocol


class Pusher(AbstractContextManager[Any], Protocol):
    """A rank's part in weight pushes; all ranks call `push` at the same steps."""

    publish_s: float | None  # seconds of the last push that was completed; None before the first
    stall_s: float  # total seconds that the main thread has waited here

    def push(self, version: int, is_measured: bool = False) -> None:
        """Start to send the weights as they are now as `version`.

        They must not change before `wait_for_snapshot` has returned.

        Args:
            is_measured: servers keep a copy for held-out samples, where they can.
        """

    def wait_for_snapshot(self) -> None:
        """Return when the weights may change."""

    def wait(self) -> None:
        """Wait for the push under way.

        Raises:
            WeightSyncError: it failed as often as is allowed; names the servers.
            Interrupted: this process is to stop.
        """

    def push_again_if_behind(self) -> None:
        """Push the last weights again if a live server is without them. Call it while waiting."""
