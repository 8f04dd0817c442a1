"""Double-entry accounts: where every issued unit is, exactly.

The unit of issue is an *attempt*: one lease of one group. An attempt that ends without training is
expired (by reason) and its sample is issued again, as a new attempt; only the last failure of a
quarantined sample counts as quarantined.

- samples: 1 an attempt.
- trajectories: n an attempt, whether or not the engine had begun to sample them.
- tokens: response tokens that reached the broker; an attempt counts from its submission on.

Late submits of attempts that are already expired (fenced), and repeats, touch no account. A rewind
undoes training: what was trained since then is expired ("rewound") and its samples issued again.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Place(StrEnum):
    """Place of an issued unit, which is always in exactly one."""

    IN_FLIGHT = "in_flight"  # with a rollout server, or with the learner
    WAITING = "waiting"  # submitted, not yet taken by the learner
    TRAINED = "trained"
    EXPIRED = "expired"
    QUARANTINED = "quarantined"


class Amounts(NamedTuple):
    samples: int
    trajectories: int
    tokens: int


class Account:
    """Balance of one unit: issued = the sum over all places."""

    def __init__(self) -> None:
        self.issued = 0
        self.places = dict.fromkeys(Place, 0)
        self.expired_by_reason: Counter[str] = Counter()

    def __getitem__(self, place: Place) -> int:
        return self.places[place]

    def issue(self, amount: int) -> None:
        self.issued += amount
        self.places[Place.IN_FLIGHT] += amount

    def move(self, amount: int, source: Place, target: Place) -> None:
        self.places[source] -= amount
        self.places[target] += amount

    def check(self) -> None:
        assert self.issued == sum(self.places.values()), f"{self.issued} issued, {self.places}"
        assert min(self.places.values()) >= 0, f"negative balance: {self.places}"
        assert self.expired_by_reason.total() == self[Place.EXPIRED], "an expiry without a reason"


class Lengths:
    """Histogram of response lengths: trajectories by the smallest power of two >= their tokens.

    Kept for what was trained and for what expired after its submission: where the two differ,
    discarding has biased the training data towards one length.
    """

    def __init__(self) -> None:
        self.trained: Counter[int] = Counter()
        self.expired: Counter[int] = Counter()

    @staticmethod
    def of(lengths: Iterable[int]) -> Counter[int]:
        return Counter(1 << (length - 1).bit_length() for length in lengths)


class Books:
    """Accounts of samples, trajectories and tokens, moved together."""

    def __init__(self) -> None:
        self.lengths = Lengths()
        self.samples, self.trajectories, self.tokens = Account(), Account(), Account()
        self._accounts = (self.samples, self.trajectories, self.tokens)

    def issue(self, amounts: Amounts) -> None:
        for account, amount in zip(self._accounts, amounts, strict=True):
            account.issue(amount)

    def move(self, amounts: Amounts, source: Place, target: Place) -> None:
        for account, amount in zip(self._accounts, amounts, strict=True):
            account.move(amount, source, target)

    def expire(self, amounts: Amounts, source: Place, reason: str) -> None:
        for account, amount in zip(self._accounts, amounts, strict=True):
            account.move(amount, source, Place.EXPIRED)
            account.expired_by_reason[reason] += amount

    def check(self) -> None:
        """Check that every account balances. Raises AssertionError."""
        for account in self._accounts:
            account.check()

    def counts(self) -> dict[str, int]:
        """Return figures named <unit>_issued and <unit>_<place> for all three accounts."""
        counts: dict[str, int] = {}
        for unit, account in zip(Amounts._fields, self._accounts, strict=True):
            counts[f"{unit}_issued"] = account.issued
            counts |= {f"{unit}_{place}": amount for place, amount in account.places.items()}
        return counts
