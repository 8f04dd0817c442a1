"""The newest announced weight push and whom it concerns. Pure."""

from broker.membership import Membership, Owner
from broker.refusal import Refusal
from common.types import WeightUpdate


class Announcements:
    """Holds one announcement: the newest.

    It is shown only to the very lives that were members when it was made. A server that restarted
    since must not try to join a push group that was formed without it.
    """

    def __init__(self) -> None:
        self._update: WeightUpdate | None = None
        self._audience: frozenset[Owner] = frozenset()

    def announce(self, update: WeightUpdate, membership: Membership, learner_version: int) -> bool:
        """Note a push. False when this one is announced already.

        Raises:
            Refusal: older than the one announced, or weights that no acknowledged step made.
        """
        if update.version > learner_version:
            raise Refusal(
                "bad_request",
                f"version {update.version} announced, but {learner_version} steps are acknowledged",
            )
        if self._update is not None:
            newest, given = _number(self._update), _number(update)
            if given == newest and update == self._update:
                return False
            if given <= newest:
                raise Refusal("bad_request", f"(version, attempt) {given} announced after {newest}")
        self._update = update
        members = membership.all()
        self._audience = frozenset(m.owner for m in members if m.member_id in update.group.ranks)
        return True

    def newer_than(
        self, seen_version: int, seen_attempt: int, reader: Owner
    ) -> WeightUpdate | None:
        """The announcement, if it concerns `reader` and is news to it."""
        if self._update is None or reader not in self._audience:
            return None
        return self._update if _number(self._update) > (seen_version, seen_attempt) else None


def _number(update: WeightUpdate) -> tuple[int, int]:
    return (update.version, update.attempt)
