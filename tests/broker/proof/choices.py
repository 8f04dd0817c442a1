"""Which events may come next.

A request is carried out and answered in one event, unless a fault loses the answer ("lost"), leaves
a copy on the network ("twice") or kills the sender.
"""

from collections.abc import Iterator
from typing import Any

from tests.broker.proof import state as s
from tests.broker.proof.state import Claim, State

Event = tuple[Any, ...]  # (name, arguments ...): a method of Model
Choice = tuple[str | None, Event]  # the kind of fault; None: what a healthy system does by itself


def events(state: State, instance: s.Instance) -> Iterator[Choice]:
    """(kind, event); the kind is None for what a healthy system does by itself."""
    for kind, event in _all_events(state, instance):
        if kind is None or kind is s.LUCK or (state.faults_left and kind in instance.kinds):
            yield kind, event


def _all_events(state: State, instance: s.Instance) -> Iterator[Choice]:
    if state.learner.is_exhausted:
        return  # the run is over
    for server in state.servers:
        yield from _server_events(state, server)
    yield from _learner_events(state, instance.ranks)
    for message in sorted(state.network, key=repr):  # the same order in every process
        yield s.LUCK, ("arrives", message)
    yield s.POWER, ("power",)
    for entry in state.ledger.needed():
        yield s.DAMAGE, ("lose", entry.order)
    if state.ledger.next_deadline() is not None:
        yield (s.LAPSE if _is_awaited(state) else None), ("lapse",)


def _server_events(state: State, server: s.Server) -> Iterator[Choice]:
    i = server.number
    if not server.is_alive:
        yield None, ("rejoin", i)
        for k in range(len(server.held)):
            yield s.LUCK, ("submit", i, k, "")  # it had been sent before
        return
    yield s.SERVER, ("crash", i)
    for k in range(len(server.held)):
        yield None, ("submit", i, k, "")
        yield s.NET, ("submit", i, k, "twice")
        if server.held[k].born:
            yield s.STALE, ("submit", i, k, "old cache")
        yield s.BROKEN, ("give_back", i, k)
    if server.owner not in state.ledger.members:
        yield None, ("hello", i)
        return
    yield s.SILENCE, ("silence", i)
    if server.asking is not None:
        yield None, ("lease", i, "")
    elif server.claim is not None:
        yield None, ("lease", i, "")
        yield s.NET, ("lease", i, "lost")
        yield s.NET, ("lease", i, "twice")
    if server.owes_ack:
        yield None, ("ack_weights", i, "")
        yield s.NET, ("ack_weights", i, "twice")
    learner = state.learner
    is_last = learner.version == state.ledger.steps.total_steps  # nobody generates with those
    if learner.is_alive and not learner.has_trained and not is_last:
        is_known = state.ledger.servers.version_of(server.owner) == learner.version
        pushed = Claim(learner.history, learner.version)
        if server.claim != pushed or not (is_known or server.owes_ack):
            yield None, ("push", i, "")
            yield s.NET, ("push", i, "ack is late")


def _learner_events(state: State, ranks: int) -> Iterator[Choice]:
    learner = state.learner
    if not learner.is_alive:
        for nth in range(len(state.checkpoints)):
            yield None, ("resume", nth, "")
            yield s.NET, ("resume", nth, "twice")
        return
    yield s.LEARNER, ("kill_learner",)
    if learner.has_trained:
        for rank in range(ranks):
            if not learner.done[rank]:
                yield None, ("ack", rank, "")
                yield s.NET, ("ack", rank, "lost")
                yield s.NET, ("ack", rank, "twice")
        return
    for rank in range(ranks):
        if learner.shards[rank] is None:
            yield None, ("take", rank, "")
            yield s.NET, ("take", rank, "lost")
            yield s.NET, ("take", rank, "twice")
    if learner.version > len(state.checkpoints[-1]) and not any(learner.shards):
        yield None, ("save", "")
        yield s.LEARNER, ("save", "dies")
    if None not in learner.shards:
        yield None, ("train", "")
        yield s.REFUSE, ("train", "refuses")


def _is_awaited(state: State) -> bool:
    """Whether somebody who lives still works on the group whose lease lapses next."""
    entry = next(iter(state.ledger._groups.leased.values()))
    for server in state.servers:
        if server.is_alive and server.owner == entry.owner:
            asking = server.asking
            is_asked = asking is not None and asking.request_id == entry.request_id
            lease = (entry.order, entry.attempt)
            return is_asked or any(held[:2] == lease for held in server.held)
    return False
