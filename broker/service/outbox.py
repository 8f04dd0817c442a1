"""Replies on their way out, those of requests that were held included. No I/O."""

import functools
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from broker.ledger.entry import Owner
from broker.ledger.refusal import Refusal, refused_for
from broker.protocol import Refused, Request
from broker.service.handlers import Call
from broker.service.polls import Poll, Polls
from broker.service.recorder import BooksBroken
from common.types import Record

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer", bound=Record | None)


class Outgoing(NamedTuple):
    """One reply and where it goes."""

    peer: bytes
    request_id: bytes
    message: Record


class Outbox:
    """Replies to send, and the held requests (`polls`) that will have one."""

    def __init__(self) -> None:
        self.polls = Polls()
        self._outgoing: list[Outgoing] = []

    def add(self, call: Call, reply: Record) -> None:
        self._outgoing.append(Outgoing(call.peer, call.request_id, reply))

    def answer(self, polls: Iterable[Poll], now: float) -> None:
        """Answer those held requests that have an answer now."""
        for poll in polls:
            reply = answered(poll.kind, functools.partial(poll.held.answer, now))
            if reply is not None:
                self._end(poll, reply)

    def answer_all_of(self, owner: Owner, reply: Record) -> None:
        """End every held request of one life of a member with the same reply."""
        for poll in self.polls.of_owner(owner):
            self._end(poll, reply)

    def lapse(self, now: float) -> None:
        """End the held requests whose time is over."""
        for poll in self.polls.lapse(now):
            self.add(poll.call, poll.held.empty())

    def emptied(self) -> list[Outgoing]:
        """What is to be sent, once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def _end(self, poll: Poll, reply: Record) -> None:
        self.polls.remove(poll)
        self.add(poll.call, reply)


def answered(kind: type[Request[Record]], answer: Callable[[], Answer]) -> Answer | Refused:
    """The reply to a request of that kind. A fault ends the request, unless the books are wrong.

    Raises:
        BooksBroken: the ledger failed in the middle of a change.
    """
    try:
        return answer()
    except Refusal as refusal:
        return refusal.reply()
    except BooksBroken:
        raise
    except Exception as error:
        logger.exception("%s met a fault", kind.__name__)
        return refused_for(error)
