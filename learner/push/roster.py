"""Which rollout servers a push goes to, by the broker's status of them.

The roster asks nothing, waits for nothing and reads no clock: answers and times are given to it.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.protocol import Members, Role, Status
from common.errors import WeightSyncError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """A live rollout server."""

    served: int  # newest version that it acknowledged; -1 for none
    ranks: int  # number of its ranks in a group


Peers = Mapping[str, Peer]  # by member id


class Roster:
    """The rollout servers as a publisher knows them.

    Args:
        silence_s: a server that is silent for longer is not known to be alive.
        start_timeout_s: seconds to wait for servers.
    """

    def __init__(self, silence_s: float, start_timeout_s: float) -> None:
        self.silence_s = silence_s
        self.start_timeout_s = start_timeout_s
        self._members = Members(acknowledged={}, ranks={})
        self._suspects: set[str] = set()  # took part in a push that failed, and silent since
        self._failed: set[str] = set()  # took part in the last push that failed
        self._has_served: set[str] = set()  # have acknowledged some version
        self.pushed_version, self._pushed_at = -1, 0.0  # the last push that was completed

    # ---- what the broker tells -------------------------------------------------------------------
    def note_members(self, members: Members) -> None:
        """Take over the servers that the broker lists as live; one that died may be among them."""
        self._members = members

    @property
    def lists_suspects(self) -> bool:
        """Whether a suspect is listed, so that it is worth asking who was heard of."""
        return bool(self._suspects & self._members.acknowledged.keys())

    def clear(self, status: Status) -> None:
        """Suspect no longer those that were heard of lately."""
        self._suspects -= self._heard_of(status)

    def suspect(self, status: Status) -> None:
        """Suspect those of the last push that failed that were not heard of lately."""
        self._suspects = self._failed - self._heard_of(status)

    def _heard_of(self, status: Status) -> set[str]:
        return {
            member.member_id
            for member in status.members
            if member.role is Role.ROLLOUT and member.silent_s <= self.silence_s
        }

    # ---- what the publisher tells ----------------------------------------------------------------
    def note_begun(self, peers: Peers) -> None:
        self._has_served |= {name for name, peer in peers.items() if peer.served >= 0}

    def note_failed(self, recipients: Iterable[str]) -> None:
        self._failed = set(recipients)

    def note_pushed(self, version: int, now: float) -> None:
        self.pushed_version, self._pushed_at = version, now

    # ---- who is there ----------------------------------------------------------------------------
    @property
    def peers(self) -> Peers:
        """The listed servers that take part in pushes, without suspects."""
        ranks = self._members.ranks
        return {
            name: Peer(served, ranks[name])
            for name, served in self._members.acknowledged.items()
            if name not in self._suspects and ranks[name] > 0
        }

    def wait_for(self, at_least: int, waited_s: float) -> Peers | None:
        """The peers, once there are `at_least`, or any when time is up; None means wait on.

        Raises:
            WeightSyncError: time is up, and there is none.
        """
        peers, is_late = self.peers, waited_s >= self.start_timeout_s
        if len(peers) >= at_least:
            return peers
        if is_late and not peers:
            raise WeightSyncError(
                f"no rollout server came within {self.start_timeout_s:.0f} s. "
                "Fix: see the rollout logs; rollout.start_timeout_s sets the limit"
            )
        if is_late:
            logger.warning("%d of %d rollout servers are there", len(peers), at_least)
            return peers
        return None

    def wait_for_return(self, version: int, waited_s: float) -> Peers | None:
        """The peers after a push of `version` that failed; None means wait on.

        Raises:
            WeightSyncError: time is up, and there is none.
        """
        if peers := self.peers:
            return peers
        if waited_s > self.start_timeout_s:
            raise WeightSyncError(
                f"version {version}: every rollout server failed in its push and none came back "
                f"within {self.start_timeout_s:.0f} s. Fix: see the rollout logs"
            )
        return None

    def behind(self) -> set[str]:
        """Peers that have not acknowledged the last push: new, failed in it, or not ready yet."""
        return {name for name, peer in self.peers.items() if peer.served < self.pushed_version}

    def in_need(self, recipients: Iterable[str], patience_s: float, now: float) -> set[str]:
        """Peers behind, if they will not come to the last push by themselves; else none.

        Args:
            recipients: the servers that took part in the last push.
            patience_s: that a server may take from the end of a push to its acknowledgement.
        """
        peers, behind, known = self.peers, self.behind(), set(recipients)
        newcomers = {
            name
            for name in behind
            if name not in known or (peers[name].served < 0 and name in self._has_served)
        }
        is_overdue = now - self._pushed_at > patience_s
        return behind if newcomers or is_overdue else set()
