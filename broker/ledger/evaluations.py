"""Measurements that the learner has ordered: who is asked what, and what was answered. Pure.

    order > OPEN items > leased to servers with that version > answered, in order of arrival > read

An item is one view of one held-out sample. Answers are greedy and of one version, so that
the first answer is as right as any: a lease that lapsed is issued again, and what comes twice is
passed over. Nothing here is journaled: after a restart of the broker the learner orders again.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from broker.ledger.entry import Owner
from broker.ledger.refusal import Refusal
from broker.protocol import Answer, AskedItem, EvaluationView
from common.types import Sample

MAX_ORDERS = 4  # a learner waits for one before it orders a third
_REMEMBERED = 4  # leases of a server, whose request may come again
VIEWS = tuple(EvaluationView)  # of a sample, in the order of their items


class Order(NamedTuple):
    """What is to be measured."""

    number: int  # the learner's name for it
    history: int
    version: int  # of the weights that are to answer
    samples: tuple[Sample, ...]
    num_urgent: int  # samples, the first ones, that training waits for
    max_tokens: int  # of an answer
    is_last: bool  # nothing is trained beside it

    @property
    def num_items(self) -> int:
        return len(self.samples) * len(VIEWS)

    def item(self, index: int) -> AskedItem:
        sample, view = divmod(index, len(VIEWS))
        return AskedItem(index=index, sample=self.samples[sample], view=VIEWS[view])


class Serving(NamedTuple):
    """The weights that a server can answer with."""

    history: int
    versions: frozenset[int]  # the one that it generates with, and its copies
    pinned: frozenset[int] = frozenset()  # the copies, which no push changes

    def has(self, order: Order) -> bool:
        return self.history == order.history and order.version in self.versions

    def keeps(self, order: Order) -> bool:
        return self.history == order.history and order.version in self.pinned


class Lease(NamedTuple):
    order: Order
    items: tuple[AskedItem, ...]
    is_urgent: bool


class News(NamedTuple):
    answers: tuple[Answer, ...]  # those after the ones seen
    is_pinned: bool  # a server keeps a copy of the weights: the next ones may come


@dataclass
class _Measurement:
    order: Order
    open: list[int]  # items that no server has been asked, those asked first last
    leased: dict[int, tuple[Owner, float]] = field(default_factory=dict)  # item -> who, until when
    answers: dict[int, Answer] = field(default_factory=dict)  # in order of arrival

    def take(self, owner: Owner, most: int, until: float) -> tuple[int, ...]:
        """Lend at most `most` items that are not urgent: urgent ones are asked otherwise."""
        urgent = self.order.num_urgent * len(VIEWS)
        taken: list[int] = []
        while self.open and len(taken) < most:
            if taken and taken[0] < urgent <= self.open[-1]:
                break
            taken.append(self.open.pop())
        self.leased |= dict.fromkeys(taken, (owner, until))
        return tuple(taken)

    def give_back(self, items: Iterable[int]) -> None:
        for item in items:
            del self.leased[item]
            self.open.append(item)
        self.open.sort(reverse=True)


class Evaluations:
    """The measurements that were ordered, and the answers to them.

    Args:
        samples: the held-out ones, by name; no others are asked about.
        lease_s: seconds until an item that was not answered is issued again.
    """

    def __init__(self, samples: Mapping[str, Sample], lease_s: float) -> None:
        self.revision = 0  # grows whenever a held request may have an answer
        self._samples = samples
        self._lease_s = lease_s
        self._measurements: dict[int, _Measurement] = {}  # by number, in order of arrival
        self._servers: dict[Owner, Serving] = {}
        self._last_leases: dict[Owner, deque[tuple[bytes, Lease]]] = {}  # by request

    # ---- learner ---------------------------------------------------------------------------------
    def order(
        self,
        number: int,
        history: int,
        version: int,
        sample_ids: Sequence[str],
        num_urgent: int,
        max_tokens: int,
        is_last: bool,
    ) -> None:
        """Begin a measurement; the same one again changes nothing.

        Raises:
            Refusal: unknown_sample, or too_many measurements are open.
        """
        if number in self._measurements:
            return
        unknown = [name for name in sample_ids if name not in self._samples]
        if unknown:
            raise Refusal(
                "unknown_sample",
                f"{unknown[0]!r} is not in the broker's data.heldout, which has "
                f"{len(self._samples)} samples. Fix: give broker and learner the same file",
            )
        if len(self._measurements) >= MAX_ORDERS:
            raise Refusal("too_many", f"{MAX_ORDERS} measurements are open already")
        samples = tuple(self._samples[name] for name in sample_ids)
        order = Order(number, history, version, samples, num_urgent, max_tokens, is_last)
        items = list(reversed(range(order.num_items)))
        self._measurements[number] = _Measurement(order, items)
        self.revision += 1

    def news(self, number: int, seen: int, is_pinned: bool, most: int) -> News | None:
        """What the reader does not know; None: nothing.

        Args:
            seen: answers that it has, `is_pinned` what it knows of that.
            most: answers in one reply.

        Raises:
            Refusal: unknown_measurement: a broker that restarted knows of none.
        """
        found = self._of(number)
        answers = tuple(islice(found.answers.values(), seen, seen + most))
        news = News(answers, any(server.keeps(found.order) for server in self._servers.values()))
        return news if answers or news.is_pinned != is_pinned else None

    def drop(self, number: int) -> None:
        """It is read, or no request waits for it any longer."""
        self._measurements.pop(number, None)
        self._forget_leases()

    def drop_all(self) -> None:
        """A new learner begins, or the run is over."""
        self._measurements.clear()
        self._forget_leases()

    # ---- rollout ---------------------------------------------------------------------------------
    def note(self, owner: Owner, history: int, version: int, pinned: Iterable[int]) -> None:
        """What a server says that it has.

        Args:
            version: that it generates with; `pinned`: those that it keeps a copy of.
        """
        copies = frozenset(pinned)
        serving = Serving(history, copies | {version}, copies)
        if self._servers.get(owner) != serving:
            self._servers[owner] = serving
            self.revision += 1

    def note_push(self, owner: Owner, history: int, version: int, is_pinned: bool) -> None:
        """A server has new weights, and perhaps a copy of them beside those that it had."""
        known = self._servers.get(owner)
        kept = known.pinned if known is not None and known.history == history else frozenset()
        self.note(owner, history, version, kept | {version} if is_pinned else kept)

    def lease(self, owner: Owner, request_id: bytes, most: int, now: float) -> Lease | None:
        """Items that a server can answer with the weights that it has; None: there are none."""
        leases = self._last_leases.setdefault(owner, deque(maxlen=_REMEMBERED))
        for request, lease in leases:
            if request == request_id:
                return lease
        serving = self._servers.get(owner)
        for measurement in self._measurements.values():
            order = measurement.order
            if serving is None or not serving.has(order):
                continue
            if taken := measurement.take(owner, most, now + self._lease_s):
                is_urgent = taken[0] < order.num_urgent * len(VIEWS)
                lease = Lease(order, tuple(map(order.item, taken)), is_urgent)
                leases.append((request_id, lease))
                return lease
        return None

    def submit(
        self, owner: Owner, number: int, answers: Sequence[Answer], given_back: Iterable[int] = ()
    ) -> None:
        """Take in answers; those to items that have one are passed over.

        Args:
            given_back: items that the server could not answer with that version after all.

        Raises:
            Refusal: bad_request: an answer that cannot be to this measurement.
        """
        measurement = self._measurements.get(number)
        if measurement is None:
            return  # dropped meanwhile
        order = measurement.order
        for answer in answers:
            if answer.index >= order.num_items or len(answer.token_ids) > order.max_tokens:
                raise Refusal(
                    "bad_request",
                    f"item {answer.index} of {order.num_items} with {len(answer.token_ids)} "
                    f"tokens, of {order.max_tokens} at most",
                )
        for answer in answers:
            if measurement.answers.setdefault(answer.index, answer) is not answer:
                continue
            if measurement.leased.pop(answer.index, None) is None:
                measurement.open.remove(answer.index)
            self.revision += 1
        leased = measurement.leased
        self._return(measurement, [i for i in given_back if i in leased and leased[i][0] == owner])

    def leave(self, owner: Owner) -> None:
        """A server is gone, with what it had leased and kept."""
        self._last_leases.pop(owner, None)
        if self._servers.pop(owner, None) is not None:
            self.revision += 1
        for measurement in self._measurements.values():
            mine = [item for item, (who, _) in measurement.leased.items() if who == owner]
            self._return(measurement, mine)

    # ---- time ------------------------------------------------------------------------------------
    def next_deadline(self) -> float | None:
        every = self._measurements.values()
        return min((until for m in every for _, until in m.leased.values()), default=None)

    def lapse(self, now: float) -> None:
        for measurement in self._measurements.values():
            late = [item for item, (_, until) in measurement.leased.items() if until <= now]
            self._return(measurement, late)

    def _return(self, measurement: _Measurement, items: Sequence[int]) -> None:
        if items:
            measurement.give_back(items)
            self.revision += 1

    def _of(self, number: int) -> _Measurement:
        if number not in self._measurements:
            raise Refusal("unknown_measurement", f"no measurement {number} is known. Order it anew")
        return self._measurements[number]

    def _forget_leases(self) -> None:
        """A reply that is asked for again must not name a measurement that is over."""
        for owner, leases in self._last_leases.items():
            kept = (one for one in leases if one[1].order.number in self._measurements)
            self._last_leases[owner] = deque(kept, maxlen=_REMEMBERED)
        self.revision += 1
