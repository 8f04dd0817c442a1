"""Which processes the broker has lost although they run, and which of them have to be replaced.

A process that is stopped (SIGSTOP) or wedged does not end: its restart loop would wait for ever.
"""

from collections.abc import Iterable, Mapping

from common.config import RunConfig

_SERVER_SILENCE = 1.5  # times broker.member_timeout_s, after which the broker has lost it


class SilenceWatch:
    """Watches one life of each process: a process that is started anew has not been heard yet.

    Args:
        limits_s: silence after which a process is replaced, by its name's first part (rollout,
            learner); one that is not named is only shown.
    """

    def __init__(self, limits_s: Mapping[str, float]) -> None:
        self._limits_s = limits_s
        self._heard: set[str] = set()
        self.silent_s: dict[str, float] = {}  # by process, as last seen

    def begin(self, process: str) -> None:
        """A new life of it begins."""
        self._heard.discard(process)
        self.silent_s.pop(process, None)

    def look(self, members: Iterable[str], lost: Mapping[str, float]) -> list[str]:
        """Processes that have been silent for too long, until their next life begins.

        Args:
            members: ids that the broker hears.
            lost: ids that it counts as gone by their silence, and its length in seconds.
        """
        present = {process_of(member) for member in members}
        self._heard |= present
        self.silent_s = {}
        for member, seconds in lost.items():
            process = process_of(member)
            if process in self._heard and process not in present:  # one of several may be restarted
                self.silent_s[process] = max(seconds, self.silent_s.get(process, 0.0))
        return [process for process in self.silent_s if self._is_overdue(process)]

    def limit_s(self, process: str) -> float | None:
        """Silence after which it is replaced. None means that it is not."""
        return self._limits_s.get(process.partition("-")[0])

    def _is_overdue(self, process: str) -> bool:
        limit_s = self.limit_s(process)
        return limit_s is not None and self.silent_s[process] >= limit_s


def process_of(member: str) -> str:
    """The process that a member is part of: rollout-0.1 is one of the engines of rollout-0."""
    return member.partition(".")[0]


def silence_limits_s(config: RunConfig) -> dict[str, float]:
    """A server is soon replaced; a learner, whose steps since its checkpoint are lost, is not."""
    member_s = config.broker.member_timeout_s
    return {
        "rollout": _SERVER_SILENCE * member_s,
        "learner": max(_SERVER_SILENCE * member_s, config.learner.rank_timeout_s),
    }
