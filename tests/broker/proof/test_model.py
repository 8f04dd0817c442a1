"""The ledger in every state that small systems can reach, whatever fails; shortest traces."""

import copy
import random

import pytest

from broker.ledger.ledger import Ledger
from tests.broker.ledger.support import walk
from tests.broker.proof.canonical import fingerprint
from tests.broker.proof.choices import events
from tests.broker.proof.model import Model
from tests.broker.proof.mutants import MUTANTS, installed
from tests.broker.proof.snapshot import assert_complete, copy_ledger
from tests.broker.proof.state import (
    BROKEN,
    DAMAGE,
    LAPSE,
    LEARNER,
    NET,
    POWER,
    REFUSE,
    SERVER,
    SILENCE,
    STALE,
    Instance,
    State,
    begin,
)
from tests.broker.proof.state_space import Violation, explore
from tests.repetitions import repeated

ALL = (SERVER, SILENCE, LAPSE, LEARNER, NET, STALE, BROKEN, REFUSE)
SMALL = (
    Instance(3, 1, 0, faults=0, kinds=(), acks_are_slow=True),
    Instance(3, 1, 1, faults=0, kinds=(), acks_are_slow=True),
    Instance(2, 1, 0, faults=1, kinds=(*ALL, DAMAGE, POWER)),
    Instance(3, 2, 0, faults=1, kinds=ALL),
    Instance(4, 2, 0, faults=1, kinds=(LEARNER,), servers=1, ranks=2),
)
LARGE = (
    Instance(3, 1, 0, faults=1, kinds=(*ALL, DAMAGE, POWER), acks_are_slow=True),
    Instance(3, 1, 1, faults=1, kinds=ALL),
    Instance(3, 1, 0, faults=2, kinds=(SERVER, LEARNER)),
    Instance(3, 1, 0, faults=2, kinds=(LAPSE, NET, STALE)),
    Instance(3, 1, 1, faults=2, kinds=(LAPSE, BROKEN, REFUSE), max_attempts=2),
    Instance(3, 2, 0, faults=2, kinds=ALL),
    Instance(4, 2, 1, faults=1, kinds=ALL, lease_size=2, keep=2),
    Instance(4, 2, 0, faults=2, kinds=(LEARNER, NET, REFUSE), servers=1, ranks=2),
    Instance(2, 1, 1, faults=2, kinds=(POWER, LEARNER)),
)
# The largest ones leave out nothing that these have, in other combinations.
SEARCHED = (*SMALL, *repeated(some=(LARGE[4], LARGE[7]), full=LARGE))


@pytest.mark.parametrize("instance", SMALL, ids=str)
def test_small_instance_holds(instance: Instance) -> None:
    assert explore(instance).ends


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_all_instances_hold(capsys: pytest.CaptureFixture[str]) -> None:
    reports = []
    for instance in SEARCHED:
        reports.append(explore(instance))
        with capsys.disabled():
            print(f"\n{reports[-1]}", end="", flush=True)
    states = sum(report.states for report in reports)
    transitions = sum(report.transitions for report in reports)
    with capsys.disabled():
        print(f"\n{states:,} states, {transitions:,} transitions: every invariant in each")
    assert states > repeated(some=10_000, full=100_000)


@pytest.mark.parametrize("ranks", (1, pytest.param(2, marks=pytest.mark.proof)))
@pytest.mark.timeout(1200)
def test_repeated_take_of_a_step_that_was_damaged(ranks: int) -> None:
    """A learner that holds the groups of the first taking must not acknowledge the second."""
    explore(Instance(2 * ranks, ranks, 0, faults=2, kinds=(DAMAGE, NET), servers=1, ranks=ranks))


def test_violation_comes_with_the_shortest_trace() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "no fence")
    assert isinstance(mutant.caught_by, Instance)
    with installed(mutant), pytest.raises(Violation, match="not its lease") as caught:
        explore(mutant.caught_by)
    names = [event[0] for event in caught.value.trace]
    assert names == ["push", "lease", "lapse", "lease", "submit"]


def test_trap_is_told_from_an_end() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "one step of slots too few")
    assert isinstance(mutant.caught_by, Instance)
    with installed(mutant), pytest.raises(Violation, match="cannot end"):
        explore(mutant.caught_by)


@pytest.mark.parametrize("seed", range(5))
def test_copy_is_the_same_ledger_and_shares_nothing_that_changes(seed: int) -> None:
    ledger = walk(seed, num_events=60).ledger
    ledger.rewind(("learner-0", 98), ledger.version)
    assert_complete(ledger)
    twin, before = copy_ledger(ledger), _picture(ledger)
    assert _picture(twin) == before
    _spoil(twin)
    assert _picture(ledger) == before


def test_fingerprint_does_not_tell_the_servers_apart() -> None:
    instance = Instance(3, 1, 1, faults=0, kinds=())
    model, first = Model(instance), begin(instance)
    after = [model.after(first, None, ("push", server, "")) for server in (0, 1)]
    prints = {fingerprint(state, instance) for state in after if state is not None}
    assert len(prints) == 1 and fingerprint(first, instance) not in prints


def test_states_with_one_fingerprint_have_the_same_future() -> None:
    """Two walks that meet, in states reached differently, go on alike."""
    instance = Instance(3, 1, 1, faults=2, kinds=(SERVER, LAPSE, LEARNER, NET))
    model, met = Model(instance), {}
    num_meetings = 0
    for seed in range(300):
        for state in _walk(model, begin(instance), random.Random(seed)):
            key = fingerprint(state, instance)
            futures = _futures(model, state)
            num_meetings += key in met
            assert met.setdefault(key, futures) == futures
    assert num_meetings > 1000


def _walk(model: Model, state: State, rng: random.Random) -> list[State]:
    states = []
    for _ in range(25):
        choices = list(events(state, model.instance))
        if not choices:
            break
        after = model.after(state, *rng.choice(choices))
        if after is not None:
            state = after
            states.append(state)
    return states


def _futures(model: Model, state: State) -> set[bytes]:
    afters = [model.after(state, *choice) for choice in events(state, model.instance)]
    return {fingerprint(after, model.instance) for after in afters if after is not None}


def _picture(ledger: Ledger) -> str:
    """Everything in a ledger but the shared source; entries by value."""
    twin = copy.copy(ledger)
    twin._groups = copy.copy(ledger._groups)
    twin._groups._source = None  # type: ignore[assignment]
    twin.steps = copy.copy(ledger.steps)
    twin.steps._groups = twin._groups
    return repr(_plain(twin))


def _plain(thing: object) -> object:
    if isinstance(thing, dict):
        return [(_plain(key), _plain(value)) for key, value in thing.items()]
    if isinstance(thing, list | tuple) or type(thing).__name__ == "deque":
        return [_plain(item) for item in thing]  # type: ignore[attr-defined]
    if type(thing).__module__.startswith("broker") and hasattr(thing, "__dict__"):
        return [(name, _plain(value)) for name, value in vars(thing).items()]
    return repr(thing)


def _spoil(ledger: Ledger) -> None:
    """Change whatever can be changed."""
    for owner in list(ledger.members):
        ledger.serve(owner, ledger.history, ledger.version)
        ledger.lease(owner, b"spoil", 9, ledger.history, ledger.version, 0.0)
    ledger.rewind(("learner-0", 99), ledger.steps.pruned)
    for owner in list(ledger.members):
        ledger.leave(owner, "member_lost", "?", 0.0)
