"""How often, and how soon, something that died may be started again."""

from collections import deque


class RestartBudget:
    """A number of restarts within a time. Pure: time is an argument (seconds of a steady clock).

    Args:
        max_restarts: how many are allowed within `period_s`; older ones are forgiven.
        first_pause_s: pause before the first restart; doubles with each within the period.
        longest_pause_s: the longest pause.
    """

    def __init__(
        self,
        max_restarts: int,
        period_s: float = 3600.0,
        longest_pause_s: float = 30.0,
        first_pause_s: float = 1.0,
    ) -> None:
        self.max_restarts = max_restarts
        self._period_s = period_s
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._times: deque[float] = deque()

    def pause_before_next(self, now: float) -> float | None:
        """Seconds to wait before the restart that this counts; None means no more restarts."""
        self._forgive(now)
        if len(self._times) >= self.max_restarts:
            return None
        doublings = min(len(self._times), 30)
        self._times.append(now)
        return min(self._first_pause_s * 2.0**doublings, self._longest_pause_s)

    def forgive(self) -> None:
        """Forget earlier restarts: what they came from is known, and gone."""
        self._times.clear()

    def used(self, now: float) -> int:
        """Restarts that count at this time."""
        self._forgive(now)
        return len(self._times)

    def _forgive(self, now: float) -> None:
        while self._times and self._times[0] <= now - self._period_s:
            self._times.popleft()
