"""Requests that are held until there is an answer, or until their time is over. Pure."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from broker.ledger.entry import Owner
from broker.ledger.refusal import Refusal
from broker.protocol import Request
from broker.service.handlers import Call, Held
from common.types import Record

MAX_POLLS_A_MEMBER = 16
Kind = type[Request[Record]]
PollKey = tuple[Owner, bytes]  # who asks, and the request id


@dataclass(eq=False)
class Poll:
    """A held request."""

    owner: Owner
    kind: Kind
    call: Call
    deadline: float  # seconds on the broker's clock
    held: Held[Record]

    @property
    def key(self) -> PollKey:
        return (self.owner, self.call.request_id)


class Polls:
    """Held requests by kind, first come first served."""

    def __init__(self) -> None:
        self._by_kind: dict[Kind, dict[PollKey, Poll]] = {}
        self._num_of: dict[Owner, int] = {}
        self._deadlines: list[tuple[float, int, Poll]] = []
        self._serial = 0

    def add(self, poll: Poll) -> None:
        """Hold a request. The same one sent again takes the place of the first.

        Raises:
            Refusal: the member has too many already.
        """
        kept = self._by_kind.setdefault(poll.kind, {})
        if poll.key in kept:
            self.remove(kept[poll.key])
        elif self._num_of.get(poll.owner, 0) >= MAX_POLLS_A_MEMBER:
            raise Refusal("too_many", f"{MAX_POLLS_A_MEMBER} requests are held for you already")
        kept[poll.key] = poll
        self._num_of[poll.owner] = self._num_of.get(poll.owner, 0) + 1
        self._serial += 1
        heapq.heappush(self._deadlines, (poll.deadline, self._serial, poll))

    def remove(self, poll: Poll) -> None:
        del self._by_kind[poll.kind][poll.key]
        self._num_of[poll.owner] -= 1
        if not self._num_of[poll.owner]:
            del self._num_of[poll.owner]

    def of_kind(self, kind: Kind) -> Iterator[Poll]:
        """Held requests of one kind in order of arrival; the caller may remove them meanwhile."""
        yield from list(self._by_kind.get(kind, {}).values())

    def of_owner(self, owner: Owner) -> list[Poll]:
        if owner not in self._num_of:
            return []
        kinds = self._by_kind.values()
        return [poll for kept in kinds for poll in kept.values() if poll.owner == owner]

    def next_deadline(self) -> float | None:
        while self._deadlines and not self._is_held(self._deadlines[0][2]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def lapse(self, now: float) -> list[Poll]:
        """Forget and return the requests whose time is over."""
        lapsed: list[Poll] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            poll = self._deadlines[0][2]
            self.remove(poll)
            lapsed.append(poll)
        return lapsed

    def _is_held(self, poll: Poll) -> bool:
        return self._by_kind[poll.kind].get(poll.key) is poll
