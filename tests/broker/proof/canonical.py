"""States that behave alike from now on get the same fingerprint.

Left out: names of lives, request ids and times (who compares equal to whom is kept, and the order
of deadlines); counters that only grow; which of the rollout servers is which. Attempts are counted
back from the group's current one. Books are left out too, so the search checks them with every
transition and not only in every state.
"""

import marshal
from hashlib import blake2b
from typing import Any

from broker.ledger.entry import Entry, Step
from broker.ledger.entry import State as EntryState
from tests.broker.proof.state import Instance, Message, Request, Server, State, Weights

_CODES = {state: code for code, state in enumerate(EntryState, start=1)}
_GONE = 99  # attempts of a group that the ledger has forgotten
_NOTHING = 0


def fingerprint(state: State, instance: Instance) -> bytes:
    canon = _Canon(state, instance)
    servers = sorted(canon.server(server) for server in state.servers)
    parts = (canon.ledger(), tuple(servers), canon.learner(), canon.rest())
    # Version 2 of marshal has no back references: equal values give equal bytes.
    return blake2b(marshal.dumps(parts, 2), digest_size=16).digest()


class _Canon:
    def __init__(self, state: State, instance: Instance) -> None:
        self._state = state
        self._instance = instance
        self._weights = state.weights
        self._by_order = {e.order: e for e in state.ledger._groups.by_id.values()}

    # ---- the ledger ------------------------------------------------------------------------------
    def ledger(self) -> tuple[Any, ...]:
        ledger = self._state.ledger
        groups = ledger._groups
        blocker, step = ledger.steps._blocker, ledger.steps.current
        is_blocking = blocker is not None and blocker.state in ("waiting", "leased")
        return (
            ledger.version,
            ledger.steps.freed,
            ledger.steps.pruned,
            ledger.steps._num_unfreed,
            self._life(ledger.steps._resumed_by),
            ledger.steps._is_doubtful,
            groups.next_order,
            groups.first_attempt,
            tuple([self._entry(order) for order in range(groups.next_order)]),
            tuple([entry.order for entry in groups.pending]),
            tuple([entry.order for entry in groups.leased.values()]),
            blocker.order + 1 if is_blocking else _NOTHING,
            _NOTHING if step is None else self._step(step),
            tuple([self._step(done) for done in ledger.steps.done]),
        )

    def _entry(self, order: int) -> Any:
        entry = self._by_order.get(order)
        if entry is None:
            return _NOTHING
        suspicion = 2 * entry.is_suspect + entry.is_alone
        common = (_CODES[entry.state], entry.failures, suspicion)
        if self._instance.ranks > 1:
            common += (entry.attempt % 2,)  # the load decides who gets it
        if entry.receipt is None or entry.state is EntryState.DONE:
            return common
        content = self._state.contents.get(order)
        assert content is not None
        return (*common, *entry.receipt[:2], self._view(content.oldest), self._view(content.newest))

    def _step(self, step: Step) -> tuple[Any, ...]:
        return (
            step.number,
            tuple([entry.order for entry in step.entries]),
            step.shards,
            tuple([(rank, self._life(step.holders[rank])) for rank in sorted(step.holders)]),
            tuple(sorted(step.acknowledged)),
            tuple([entry.order for entry in step.entries if entry.group_id in step.refused]),
        )

    def _life(self, owner: Any) -> int:
        if owner is None:
            return 0
        return 1 if owner[1] == self._state.learner.life else 2

    # ---- the others ------------------------------------------------------------------------------
    def server(self, server: Server) -> tuple[Any, ...]:
        ledger = self._state.ledger
        owned = ledger._groups.held.get(server.owner, {}).values()
        return (
            server.is_alive,
            server.owner in ledger.members,
            ledger.servers.version_of(server.owner) + 1,
            self._view(server.engine),
            self._claim(server.claim),
            server.owes_ack,
            tuple(sorted([(h[0], self._age(*h[:2]), self._view(h.born)) for h in server.held])),
            self._request(server.asking, owned),
            tuple([entry.order for entry in owned]),
            tuple(
                sorted(
                    [
                        self._message(message, server, owned)
                        for message in self._state.network
                        if message[0] in _FROM_SERVERS and message[1] == server.number
                    ]
                )
            ),
        )

    def learner(self) -> tuple[Any, ...]:
        learner = self._state.learner
        last = learner.steps[-1] if learner.has_trained else None
        return (
            learner.is_alive,
            learner.history == self._state.ledger.history,
            learner.version,
            learner.is_exhausted,
            learner.done,
            tuple([self._attempts(shard or ()) for shard in learner.shards]),
            tuple([self._is_open(taking) for taking in learner.takings]),
            _NOTHING if last is None else self._attempts(last.refused),
            tuple(map(len, self._state.checkpoints)),
        )

    def rest(self) -> tuple[Any, ...]:
        state = self._state
        messages = [m for m in state.network if m[0] not in _FROM_SERVERS]
        return (
            state.faults_left,
            state.has_lagged,
            state.may_refuse,
            tuple(sorted(state.quarantined)),
            tuple([(_orders(step.groups), _orders(step.refused)) for step in state.surviving]),
            tuple([(r, self._late(state.acknowledged[r])) for r in sorted(state.acknowledged)]),
            tuple(sorted(map(self._late, messages))),
        )

    def _message(self, message: Message, server: Server, owned: Any) -> tuple[Any, ...]:
        kind, _, life, *rest = message
        is_current = life == server.life
        if kind == "submit":
            (order, attempt), *weights = rest
            views = map(self._view, weights)
            return (0, is_current, order, self._age(order, attempt), *views)
        if kind == "serve":
            return (1, is_current, *self._claim(rest[0]))
        return (2, is_current, *self._request(rest[0], owned))

    def _late(self, message: Message) -> tuple[Any, ...]:
        if message[0] != "ack":
            return (_KINDS[message[0]], *message[1:2], *message[3:])
        _, rank, life, step, taking, shard, refused = message
        is_current = (life == self._state.learner.life, self._is_open(taking))
        return (0, rank, *is_current, step, self._attempts(shard), self._attempts(refused))

    def _is_open(self, taking: int) -> bool:
        step = self._state.ledger.steps.current
        return step is not None and step.batch_id == taking

    # ---- relations -------------------------------------------------------------------------------
    def _view(self, weights: Weights | None) -> int:
        """Which version, and whether it is of the history that survives."""
        if weights is None:
            return _NOTHING
        return 2 * len(weights) + 1 + (weights != self._weights[: len(weights)])

    def _age(self, order: int, attempt: int) -> int:
        entry = self._by_order.get(order)
        return _GONE if entry is None else entry.attempt - attempt

    def _attempts(self, attempts: Any) -> tuple[Any, ...]:
        return tuple([(order, self._age(order, attempt)) for order, attempt in attempts])

    def _claim(self, claim: Any) -> tuple[int, ...]:
        if claim is None or claim.history != self._state.ledger.history:
            return (_NOTHING,)
        return (1, claim.version)

    def _request(self, request: Request | None, owned: Any) -> tuple[Any, ...]:
        """What it claims, and which leases it would be told of again."""
        if request is None:
            return ()
        again: list[Entry] = [e for e in owned if e.request_id == request.request_id]
        return (*self._claim(request.claim), tuple([entry.order for entry in again]))


_FROM_SERVERS = frozenset({"submit", "serve", "lease"})
_KINDS = {"take": 1, "resume": 2}


def _orders(attempts: Any) -> tuple[int, ...]:
    return tuple([order for order, _ in attempts])
