"""What must hold behind every transition, judged by the ghosts and not by the ledger's books."""

from broker.ledger.accounts import Place
from broker.ledger.entry import State as EntryState
from broker.ledger.ledger import Ledger
from tests.broker.proof.receipts import num_tokens
from tests.broker.proof.state import State

_STALE = ("stale_at_submit", "stale_at_take")


def check(before: State, after: State) -> None:
    """Hold all invariants; AssertionError where one does not."""
    after.ledger.check()
    _check_lists(after)
    _check_history(after)
    _check_slots(after)
    _check_books(after)
    _check_servers(after)
    _check_monotone(before, after)
    _check_wakeups(before.ledger, after.ledger)


def _check_lists(state: State) -> None:
    """Every issued group is in exactly one place, and the lists say what the groups say."""
    ledger, groups = state.ledger, state.ledger._groups
    by_state: dict[EntryState, list[int]] = {each: [] for each in EntryState}
    for entry in groups.by_id.values():
        by_state[entry.state].append(entry.order)
    pending = [entry.order for entry in groups.pending]
    assert pending == sorted(pending), "the pending groups are out of order"
    waiting, leased = by_state[EntryState.WAITING], by_state[EntryState.LEASED]
    assert pending == sorted(waiting + leased + by_state[EntryState.READY])
    assert [entry.order for entry in groups.returned] == sorted(waiting)
    assert sorted(entry.order for entry in groups.leased.values()) == sorted(leased)
    holders = [(e.order, owner) for owner, held in groups.held.items() for e in held.values()]
    assert sorted(holders) == sorted((e.order, e.owner) for e in groups.leased.values())
    assert all(owner in ledger.members for owner in groups.held), "a lease of a life that is over"
    taken = [entry.order for entry in ledger.steps.current.entries] if ledger.steps.current else []
    assert taken == sorted(by_state[EntryState.TAKEN])
    done = [order for step in state.surviving for order, _ in step.groups + step.refused]
    places = sorted([*pending, *taken, *done, *state.quarantined])
    assert places == list(range(groups.next_order)), f"a group is lost or twice there: {places}"
    kept = [entry.order for step in ledger.steps.done for entry in step.entries]
    assert kept == sorted(by_state[EntryState.DONE]) and set(kept) <= set(done)


def _check_history(state: State) -> None:
    """Each sample is trained once, in order, and the ledger knows the learner's steps."""
    assert state.ledger.version == len(state.surviving), "versions differ"
    last = -1
    for step in state.surviving:
        for order, _ in sorted(step.groups + step.refused):
            assert order > last, f"sample {order} trained twice or out of order"
            last = order


def _check_slots(state: State) -> None:
    ledger, rules = state.ledger, state.ledger.rules
    assert ledger.steps.freed == state.freed, (
        f"freed up to {ledger.steps.freed}, but {state.freed} is right"
    )
    unfreed = len(state.surviving) - state.freed
    groups = ledger._groups
    in_use = unfreed * rules.groups_per_step + groups.num_ready + len(groups.leased)
    in_use += len(ledger.steps.current.entries) if ledger.steps.current else 0
    assert in_use <= rules.slots, f"{in_use} groups between lease and freed slot"
    if not state.has_lagged:
        expired = ledger.books.samples.expired_by_reason
        assert not any(expired[reason] for reason in _STALE), "stale, though no engine lagged"


def _check_books(state: State) -> None:
    books, groups = state.ledger.books, state.ledger._groups
    trained = [group for step in state.surviving for group in step.groups]
    refused = [group for step in state.surviving for group in step.refused]
    ready = [e for e in groups.pending if e.state is EntryState.READY]
    taken = state.ledger.steps.current.entries if state.ledger.steps.current else []
    samples, tokens = books.samples, books.tokens
    assert samples[Place.TRAINED] == len(trained)
    assert samples[Place.QUARANTINED] == len(refused) + len(state.quarantined)
    assert samples[Place.WAITING] == len(ready)
    assert samples[Place.IN_FLIGHT] == len(groups.leased) + len(taken)
    for place, attempts in (
        (Place.TRAINED, trained),
        (Place.QUARANTINED, refused),
        (Place.WAITING, [(e.order, e.attempt) for e in ready]),
        (Place.IN_FLIGHT, [(e.order, e.attempt) for e in taken]),
    ):
        expected = 2 * sum(num_tokens(*attempt) for attempt in attempts)
        assert tokens[place] == expected, f"{tokens[place]} tokens {place}, not {expected}"


def _check_servers(state: State) -> None:
    """Nobody is believed to serve newer weights than it does, or weights that were undone."""
    weights = state.weights
    versions = state.ledger.servers.all()
    for server in state.servers:
        believed = state.ledger.servers.version_of(server.owner)
        assert believed == server.served, f"it told {server.served}, {believed} is believed"
        assert (server.owner in versions) == (server.owner in state.ledger.members)
        if server.is_alive and believed >= 0:
            assert server.engine is not None and len(server.engine) >= believed
            assert server.engine[:believed] == weights[:believed], "it serves undone weights"
    assert len(versions) <= len(state.servers), "a life that is over is counted"
    for order, content in state.contents.items():
        entry = state.ledger._groups.by_id.get(f"0/{order}")
        if entry is not None and entry.state in (EntryState.READY, EntryState.TAKEN):
            assert entry.attempt == content.attempt, "not the trajectories that were submitted"
            assert content.newest == weights[: len(content.newest)], "of undone weights"


def _check_monotone(before: State, after: State) -> None:
    """Within one history nothing goes back."""
    old, new = before.ledger, after.ledger
    assert new.history >= old.history and new.steps.pruned >= old.steps.pruned
    if new.history != old.history:
        return
    assert new.version >= old.version and new.steps.freed >= old.steps.freed
    for owner, version in old.servers.all().items():
        if owner in new.servers.all() and owner in old.members:
            assert new.servers.version_of(owner) >= version, f"{owner} goes back"


def _check_wakeups(old: Ledger, new: Ledger) -> None:
    """The service tries held lease requests again only when `supply` grows: that must do."""
    if new.supply != old.supply or new.history != old.history:
        return
    for version in range(min(old.version, new.version) + 1):
        if new._may_lease(version) and not old._may_lease(version):
            raise AssertionError(f"held requests at version {version} are not woken")
    assert old.has_work or not new.has_work, "held requests are not woken"
