"""State that the handlers of requests share: the ledger, its store, and the run's progress."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from broker.ledger.commands import COMMANDS, name_of
from broker.ledger.entry import Owner
from broker.ledger.ledger import Ledger
from broker.ledger.refusal import Refusal
from broker.service.announcement import Announcements
from broker.service.membership import Membership
from broker.storage.recovery import outcome_of
from broker.storage.store import Store
from common.errors import VisionOpdError

logger = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")
Outcome = TypeVar("Outcome")


class BooksBroken(VisionOpdError):
    """The ledger failed in the middle of a change, or the change could not be recorded.

    What it holds is no longer what the journal tells: the process must end, and recover.
    """


class LedgerRecorder:
    """The ledger, whose every change is recorded, and what else the handlers of requests share.

    Args:
        store: keeps trajectories, and the record of every change.
    """

    def __init__(
        self, ledger: Ledger, membership: Membership, store: Store, announcements: Announcements
    ) -> None:
        self.ledger = ledger
        self.membership = membership
        self.store = store
        self.announcements = announcements
        self.is_stopping = False  # the run was ended before its last step
        self.ended_because = ""  # fault of the data set that ended the run; empty if none did
        self.has_news = False  # held requests that watch the weights can be answered
        self.refreshed: set[Owner] = set()  # servers with new weights since leases were tried
        self.now = 0.0

    @property
    def is_finished(self) -> bool:
        return self.is_stopping or self.ledger.steps.is_finished

    def do(
        self,
        call: Callable[Parameters, Outcome],
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Outcome:
        """Call a method of the ledger; if that changes the ledger, record it.

        Raises:
            Refusal: the ledger's own.
            LookupError, BadArguments: not a call of `broker.ledger.commands`; nothing is changed.
            BooksBroken: anything else.
        """
        assert not named, "a record holds arguments in their order"
        name = name_of(call)
        COMMANDS[name].arguments.check(arguments)
        before = self.ledger.revision
        outcome: Outcome | Refusal
        try:
            try:
                outcome = call(*arguments, **named)
            except Refusal as refusal:
                outcome = refusal
            if self.ledger.revision != before:
                self.store.record(self.now, name, arguments, outcome_of(outcome))
        except Exception as error:
            logger.exception("the ledger failed at %s", name)
            raise BooksBroken(
                f"the ledger failed at {name}: {type(error).__name__}: {error}"
            ) from error
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome


def one_line(text: str) -> str:
    """Make a member's text fit for logs, terminals and files of lines."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
