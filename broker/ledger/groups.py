"""Every issued group and the books: the moves between states. No rule is decided here.

          .------- lapse, give back, leave, stale, damaged, rewound: expired, issued again -----.
          v                                                                                     |
    WAITING --grant--> LEASED --receive--> READY --begin_step--> TAKEN --finish--> DONE --undo--'
          ^              |                   ^------- untake ------'
     source.at           '--quarantine--> QUARANTINED

Each move moves the amounts in the books too, so that the two can never disagree.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from operator import attrgetter

from broker.ledger.accounts import Amounts, Books, Lengths, Place
from broker.ledger.entry import Entry, Owner, Receipt, State
from common.source import SampleSource

_BY_ORDER = attrgetter("order")


class Groups:
    """All groups of a run that may still matter, and the books.

    Args:
        trajectories_per_sample: of every group, for the books.
    """

    def __init__(self, source: SampleSource, trajectories_per_sample: int) -> None:
        self.books = Books()
        self.next_order = 0  # order of the source's next group
        self.by_id: dict[str, Entry] = {}  # every issued group that may still matter
        self.pending: list[Entry] = []  # issued and not in a step, by order
        self.returned: list[Entry] = []  # pending groups that are WAITING, by order
        self.leased: dict[str, Entry] = {}  # pending groups that are LEASED, by deadline
        self.held: dict[Owner, dict[str, Entry]] = {}  # leased groups by holder
        self.num_returns = 0  # grows whenever a group comes back
        self.num_skipped = 0  # groups that were never issued: their samples had been given up
        self.first_attempt = 0  # no attempt begins below: those may have been used and forgotten
        self._source = source
        self._trajectories_per_sample = trajectories_per_sample

    # ---- views -----------------------------------------------------------------------------------
    @property
    def num_total(self) -> int:
        return self._source.num_groups

    @property
    def num_new(self) -> int:
        """Groups that were never issued."""
        return self._source.num_groups - self.next_order

    @property
    def num_ready(self) -> int:
        return len(self.pending) - len(self.returned) - len(self.leased)

    def index(self, entry: Entry) -> int:
        """Place among the pending groups."""
        return bisect_left(self.pending, entry.order, key=_BY_ORDER)

    def held_by(self, owner: Owner) -> list[Entry]:
        return list(self.held.get(owner, {}).values())

    # ---- rollout side ----------------------------------------------------------------------------
    def reissue(self, entry: Entry) -> None:
        """Take a group that came back out of the line, to be granted."""
        self.returned.remove(entry)

    def next_sample_id(self) -> str:
        """The sample_id of the source's next group."""
        return self._source.at(self.next_order).sample.sample_id

    def skip_next(self) -> None:
        """Pass over the source's next group for good."""
        self.next_order += 1
        self.num_skipped += 1

    def issue_next(self) -> Entry:
        """Issue the source's next group."""
        entry = Entry(self.next_order, self._source.at(self.next_order))
        self.next_order += 1
        self.by_id[entry.group_id] = entry
        self.pending.append(entry)
        return entry

    def grant(
        self,
        entry: Entry,
        owner: Owner,
        request_id: bytes,
        deadline: float,
        is_alone: bool = False,
    ) -> None:
        entry.state = State.LEASED
        entry.is_alone = is_alone
        entry.attempt = max(entry.attempt + 1, self.first_attempt)
        entry.owner = owner
        entry.request_id = request_id
        entry.deadline = deadline
        self.leased[entry.group_id] = entry
        self.held.setdefault(owner, {})[entry.group_id] = entry
        self.books.issue(self._amounts(entry))

    def receive(self, entry: Entry, receipt: Receipt) -> None:
        self._unlease(entry)
        entry.receipt = receipt
        entry.state = State.READY
        self.books.issue(Amounts(0, 0, entry.num_tokens))
        self.books.move(self._amounts(entry), Place.IN_FLIGHT, Place.WAITING)

    def end_lease(self, entry: Entry, reason: str) -> None:
        self._unlease(entry)
        self._give_back(entry, Place.IN_FLIGHT, reason)

    def quarantine(self, entry: Entry) -> None:
        self._unlease(entry)
        entry.state = State.QUARANTINED
        del self.by_id[entry.group_id]
        del self.pending[self.index(entry)]
        self.books.move(self._amounts(entry), Place.IN_FLIGHT, Place.QUARANTINED)

    def expire(self, entry: Entry, reason: str) -> None:
        """Give up what was submitted of a READY group; it is issued again."""
        self._give_back(entry, Place.WAITING, reason)

    # ---- learner side ----------------------------------------------------------------------------
    def begin_step(self, size: int) -> list[Entry]:
        """Give the first `size` pending groups, all READY, to the learner."""
        entries = self.pending[:size]
        del self.pending[:size]
        for entry in entries:
            entry.state = State.TAKEN
        self.books.move(self._amounts(*entries), Place.WAITING, Place.IN_FLIGHT)
        return entries

    def untake(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.state = State.READY
        self.books.move(self._amounts(*entries), Place.IN_FLIGHT, Place.WAITING)
        self.pending[:0] = entries

    def finish(self, entries: Sequence[Entry], refused: Container[str]) -> None:
        """End a step: its groups are trained, but for those that were refused."""
        trained = [entry for entry in entries if entry.group_id not in refused]
        others = [entry for entry in entries if entry.group_id in refused]
        for entry in entries:
            entry.state = State.DONE
        self.books.move(self._amounts(*trained), Place.IN_FLIGHT, Place.TRAINED)
        self.books.move(self._amounts(*others), Place.IN_FLIGHT, Place.QUARANTINED)
        self.books.lengths.trained += _lengths(*trained)

    def undo(self, entries: list[Entry], refused: Container[str]) -> None:
        """Undo what a step did to its groups: they come back, at their old place."""
        for entry in entries:
            is_refused = entry.group_id in refused
            if not is_refused:
                self.books.lengths.trained -= _lengths(entry)
            source = Place.QUARANTINED if is_refused else Place.TRAINED
            self._give_back(entry, source, "rewound")
        self.pending[:0] = entries

    def forget(self, entries: Iterable[Entry]) -> None:
        """Drop groups to which nothing can happen any more."""
        for entry in entries:
            del self.by_id[entry.group_id]

    # ---- checks ----------------------------------------------------------------------------------
    def check(self, num_taken: int) -> None:
        """Check that books and lists agree. Raises AssertionError; costs little."""
        self.books.check()
        samples, trajectories = self.books.samples, self.books.trajectories
        assert samples[Place.IN_FLIGHT] == len(self.leased) + num_taken
        assert samples[Place.WAITING] == self.num_ready
        for place in Place:
            assert trajectories[place] == samples[place] * self._trajectories_per_sample
        ended = samples[Place.TRAINED] + samples[Place.QUARANTINED]
        num_known = ended + len(self.pending) + num_taken + self.num_skipped
        assert self.next_order == num_known, "a group was lost"

    # ---- inside ----------------------------------------------------------------------------------
    def _amounts(self, *entries: Entry) -> Amounts:
        n = len(entries)
        num_tokens = sum(entry.num_tokens for entry in entries)
        return Amounts(n, n * self._trajectories_per_sample, num_tokens)

    def _unlease(self, entry: Entry) -> None:
        assert entry.owner is not None
        del self.leased[entry.group_id]
        held = self.held[entry.owner]
        del held[entry.group_id]
        if not held:
            del self.held[entry.owner]
        entry.owner = None

    def _give_back(self, entry: Entry, source: Place, reason: str) -> None:
        """Note that an attempt has expired; its sample is issued again."""
        self.books.expire(self._amounts(entry), source, reason)
        self.books.lengths.expired += _lengths(entry)
        entry.state = State.WAITING
        entry.receipt = None
        insort(self.returned, entry, key=_BY_ORDER)
        self.num_returns += 1


def _lengths(*entries: Entry) -> Counter[int]:
    receipts = (entry.receipt for entry in entries if entry.receipt)
    return Lengths.of(length for receipt in receipts for length in receipt.lengths)
