"""The newest announced weight push and whom it concerns. Pure."""

from broker.ledger.entry import Owner
from broker.ledger.refusal import Refusal
from broker.service.membership import Membership
from common.types import WeightUpdate


class Announcements:
    """Holds one announcement: the newest.

    It is shown only to the very lives that were members when it was made. A server that restarted
    since must not try to join a push group that was formed without it.
    """

    def __init__(self, first_serial: int = 0) -> None:
        self.serial = first_serial  # grows with each; readers say which one they have seen
        self._update: WeightUpdate | None = None
        self._audience: frozenset[Owner] = frozenset()

    def announce(
        self, update: WeightUpdate, membership: Membership, history: int, learner_version: int
    ) -> bool:
        """Note a push. Returns False when this one is announced already.

        Raises:
            Refusal: older than the one announced, or weights that no acknowledged step made.
        """
        if update.history != history or update.version > learner_version:
            raise Refusal(
                "bad_request",
                f"version {update.version} of history {update.history} announced, but "
                f"{learner_version} steps are acknowledged in history {history}",
            )
        if self._update is not None:
            newest, given = _number(self._update), _number(update)
            if given == newest and update.source == self._update.source:
                return False
            if given <= newest:
                raise Refusal("bad_request", f"(version, attempt) {given} announced after {newest}")
        self._update = update
        self.serial += 1
        members = membership.all()
        self._audience = frozenset(m.owner for m in members if m.member_id in update.recipients)
        return True

    def forget(self) -> None:
        """Drop the announcement: a new learner begins, and what the old one announced is void."""
        self._update = None

    def newer_than(self, seen_serial: int, reader: Owner) -> WeightUpdate | None:
        """Return the announcement, if it concerns `reader` and is news to it."""
        if self._update is None or reader not in self._audience:
            return None
        return self._update if self.serial > seen_serial else None


def _number(update: WeightUpdate) -> tuple[int, int]:
    return (update.version, update.attempt)
