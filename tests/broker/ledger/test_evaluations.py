"""Measurements, event by event, against a plain account of who holds and who has answered what."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from broker.ledger.evaluations import MAX_ORDERS, Evaluations
from broker.ledger.refusal import Refusal
from broker.protocol import Answer, EvaluationView
from tests.broker.support import make_sample

SAMPLES = {f"s{number}": make_sample(number) for number in range(4)}
A, B = ("rollout-0", 1), ("rollout-1", 1)
LEASE_S = 10.0


def answer(index: int, *tokens: int) -> Answer:
    return Answer(index=index, token_ids=np.asarray(tokens or (7,), dtype=np.int32))


def make(num_samples: int = 2, num_urgent: int = 0, version: int = 3) -> Evaluations:
    """One measurement, number 1, of history 0."""
    made = Evaluations(SAMPLES, LEASE_S)
    made.order(1, 0, version, list(SAMPLES)[:num_samples], num_urgent, 5, is_last=False)
    return made


def leased(made: Evaluations, owner=A, most: int = 99, now: float = 0.0, request: bytes = b""):
    """Indices of the items that a new request gets."""
    lease = made.lease(owner, request or np.random.bytes(8), most, now)
    return None if lease is None else [item.index for item in lease.items]


def test_items_are_both_views_of_each_sample_in_order():
    made = make()
    made.note(A, 0, 3, ())
    lease = made.lease(A, b"1", 99, 0.0)
    asked = [(item.sample.sample_id, item.view) for item in lease.items]
    full, crop = EvaluationView.FULL, EvaluationView.CROP
    assert asked == [("s0", full), ("s0", crop), ("s1", full), ("s1", crop)]
    assert leased(made) is None


@pytest.mark.parametrize(
    ("history", "version", "pinned", "gets"),
    [(0, 3, (), True), (0, 4, (3,), True), (0, 4, (), False), (1, 3, (3,), False)],
)
def test_only_a_server_with_that_version_of_that_history_is_asked(history, version, pinned, gets):
    made = make()
    made.note(A, history, version, pinned)
    assert (leased(made) is not None) is gets


def test_a_push_changes_what_a_server_is_asked_and_its_copies_stay():
    made = make()
    assert leased(made) is None
    made.note_push(A, 0, 3, is_pinned=True)
    assert leased(made, most=1) == [0]
    made.note_push(A, 0, 4, is_pinned=False)
    assert leased(made, most=1) == [1]
    made.note_push(A, 1, 4, is_pinned=False)  # another history: its copies are of steps undone
    assert leased(made) is None


def test_a_lease_that_is_asked_for_again_is_the_same():
    made = make()
    made.note(A, 0, 3, ())
    assert leased(made, most=2, request=b"1") == leased(made, most=2, request=b"1") == [0, 1]
    assert leased(made, most=2, request=b"2") == [2, 3]


def test_urgent_items_are_leased_by_themselves():
    made = make(num_samples=3, num_urgent=1)
    made.note(A, 0, 3, ())
    lease = made.lease(A, b"1", 99, 0.0)
    assert lease.is_urgent and [item.index for item in lease.items] == [0, 1]
    assert not made.lease(A, b"2", 99, 0.0).is_urgent


def test_lapsed_given_back_and_left_items_are_issued_again():
    made = make()
    made.note(A, 0, 3, ())
    made.note(B, 0, 3, ())
    assert leased(made, A) == [0, 1, 2, 3] and leased(made, B) is None
    made.submit(A, 1, [answer(0)], given_back=[2])
    made.submit(B, 1, [], given_back=[1])  # it has never had it
    assert leased(made, B, now=1.0) == [2]
    assert made.next_deadline() == LEASE_S
    made.lapse(LEASE_S)
    assert leased(made, B, now=LEASE_S) == [1, 3]
    made.leave(B)
    assert leased(made, A, now=LEASE_S) == [1, 2, 3]


def test_the_first_answer_to_an_item_counts_even_when_its_lease_has_lapsed():
    made = make(num_samples=1)
    made.note(A, 0, 3, ())
    leased(made)
    made.lapse(LEASE_S)
    made.submit(A, 1, [answer(1, 5)])
    made.submit(A, 1, [answer(1, 6), answer(0, 8)])
    answers = made.news(1, 0, False, 99).answers
    assert [(found.index, found.token_ids.tolist()) for found in answers] == [(1, [5]), (0, [8])]
    assert leased(made) is None


def test_news_are_what_the_reader_has_not_seen():
    made = make()
    assert made.news(1, 0, False, 99) is None
    made.note_push(A, 0, 3, is_pinned=True)
    assert made.news(1, 0, False, 99).is_pinned and made.news(1, 0, True, 99) is None
    made.submit(A, 1, [answer(index) for index in range(4)])
    assert [found.index for found in made.news(1, 1, True, 2).answers] == [1, 2]
    made.leave(A)
    assert made.news(1, 4, True, 99) == ((), False)


def test_what_cannot_be_is_refused_and_changes_nothing():
    made = make(num_samples=1)
    with pytest.raises(Refusal, match=r"'s9' is not in .* data\.heldout, which has 4"):
        made.order(2, 0, 3, ["s0", "s9"], 0, 5, is_last=False)
    with pytest.raises(Refusal, match="no measurement 2"):
        made.news(2, 0, False, 99)
    for wrong in (answer(2), answer(0, *range(6))):
        with pytest.raises(Refusal, match=r"of 2 with \d tokens, of 5 at most"):
            made.submit(A, 1, [answer(1), wrong])
    assert made.news(1, 0, False, 99) is None
    made.submit(A, 9, [answer(0)])  # dropped long ago


def test_open_measurements_are_bounded_and_dropped_ones_are_not_open():
    made = make()
    for number in range(1, MAX_ORDERS + 1):
        made.order(number, 0, 3, ["s0"], 0, 5, is_last=False)
    with pytest.raises(Refusal, match=f"{MAX_ORDERS} measurements are open"):
        made.order(99, 0, 3, ["s0"], 0, 5, is_last=False)
    made.note(A, 0, 3, ())
    made.lease(A, b"1", 1, 0.0)
    made.drop(1)
    assert made.lease(A, b"1", 1, 0.0).order.number == 2  # not what is over
    made.drop_all()
    assert leased(made) is None


# ---- any order of events -------------------------------------------------------------------------
class Machine(RuleBasedStateMachine):
    """The account: per item, is it answered, and by whom is it held until when."""

    items = Bundle("items")

    def __init__(self) -> None:
        super().__init__()
        self.made = Evaluations(SAMPLES, LEASE_S)
        self.made.order(1, 0, 3, list(SAMPLES), 1, 5, is_last=False)
        self.held: dict[int, tuple[tuple[str, int], float]] = {}
        self.answered: list[int] = []
        self.can = {A: False, B: False}
        self.now = 0.0

    @rule(owner=st.sampled_from([A, B]), version=st.integers(2, 4), is_pinned=st.booleans())
    def is_pushed(self, owner, version, is_pinned) -> None:
        pinned = (3,) if is_pinned else ()
        self.made.note(owner, 0, version, pinned)
        self.can[owner] = version == 3 or is_pinned

    @rule(owner=st.sampled_from([A, B]), most=st.integers(1, 3))
    def asks(self, owner, most) -> None:
        got = leased(self.made, owner, most, self.now) or []
        free = [i for i in range(8) if i not in self.held and i not in self.answered]
        expected = free[:most] if self.can[owner] else []
        if expected and expected[0] < 2:
            expected = [index for index in expected if index < 2]
        assert got == expected
        self.held |= {index: (owner, self.now + LEASE_S) for index in got}

    @rule(owner=st.sampled_from([A, B]), index=st.integers(0, 7))
    def answers(self, owner, index) -> None:
        self.made.submit(owner, 1, [answer(index)])
        self.held.pop(index, None)
        if index not in self.answered:
            self.answered.append(index)

    @rule(owner=st.sampled_from([A, B]), index=st.integers(0, 7))
    def gives_back(self, owner, index) -> None:
        self.made.submit(owner, 1, [], given_back=[index])
        if index in self.held and self.held[index][0] == owner:
            del self.held[index]

    @rule(owner=st.sampled_from([A, B]))
    def leaves(self, owner) -> None:
        self.made.leave(owner)
        self.can[owner] = False
        self.held = {index: held for index, held in self.held.items() if held[0] != owner}

    @rule(seconds=st.floats(0.5, 12))
    def time_passes(self, seconds) -> None:
        self.now += seconds
        self.made.lapse(self.now)
        self.held = {index: held for index, held in self.held.items() if held[1] > self.now}

    @invariant()
    def the_reader_gets_each_answer_once_in_order(self) -> None:
        news = self.made.news(1, 0, True, 99)
        assert [found.index for found in (news.answers if news else ())] == self.answered
        deadline = min((until for _, until in self.held.values()), default=None)
        assert self.made.next_deadline() == deadline


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, derandomize=True)
