"""What each event does: the real ledger decides, ghosts judge.

Requests of lives that are over are refused by the service, so they do not come here, with the
exception of those that the ledger's own fences must stop: submits, acknowledgements of weights and
of steps. Every event asserts what only it can see.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from broker.ledger.entry import Owner
from broker.ledger.entry import State as EntryState
from broker.ledger.refusal import Refusal
from broker.protocol import Blame, Role, Verdict
from tests.broker.proof import state as s
from tests.broker.proof.choices import Event
from tests.broker.proof.receipts import Receipts
from tests.broker.proof.state import Attempt, Claim, Held, Message, State, Trained
from tests.broker.support import make_source


class Model:
    def __init__(self, instance: s.Instance) -> None:
        self.instance = instance
        source = make_source(instance.num_samples)
        self.group_ids = [source.at(order).group_id for order in range(instance.num_samples)]
        self._receipts = Receipts(source)

    # ---- what they do ----------------------------------------------------------------------------
    def after(self, before: State, kind: str | None, event: Event) -> State | None:
        """The state behind an event; None: nothing came of it.

        Raises:
            AssertionError: it showed that the ledger is wrong.
            Refusal: of a request that no living member should have been refused.
        """
        state = before.copy()
        state.faults_left -= kind is not None and kind is not s.LUCK
        if getattr(self, "_" + event[0])(state, *event[1:]) is False:
            return None
        self._note_freed(state)
        return state

    # ---- rollout servers -------------------------------------------------------------------------
    def _push(self, state: State, i: int, variant: str) -> None:
        learner = state.learner
        weights = tuple(step.life for step in learner.steps)
        state.servers[i] = state.servers[i]._replace(
            engine=weights, claim=Claim(learner.history, learner.version), owes_ack=True
        )
        if not variant and not self.instance.acks_are_slow:
            self._ack_weights(state, i, "")

    def _ack_weights(self, state: State, i: int, variant: str) -> None:
        server = state.servers[i]
        assert server.claim is not None
        state.servers[i] = server._replace(owes_ack=False)
        self._serve(state, server.number, server.life, server.claim)
        if variant:
            self._leave_on_network(state, ("serve", i, server.life, server.claim))

    def _serve(self, state: State, i: int, life: int, claim: Claim) -> None:
        state.ledger.serve((f"rollout-{i}", life), *claim)
        server = state.servers[i]
        if (
            claim.history == state.ledger.history
            and life == server.life
            and server.owner in state.ledger.members
        ):
            state.servers[i] = server._replace(served=max(server.served, claim.version))

    def _lease(self, state: State, i: int, variant: str) -> None:
        server = state.servers[i]
        request = server.asking
        if request is None:
            assert server.claim is not None
            number = server.num_requests + 1
            request = s.Request(number.to_bytes(8), server.claim)
            server = server._replace(num_requests=number)
        granted = self._ask(state, server, request)
        if variant == "lost":
            state.servers[i] = server._replace(asking=request, unheard=tuple(granted))
            return
        assert server.engine is not None
        known = {held[:2] for held in server.held}
        held = tuple(Held(*lease, server.engine) for lease in granted if lease not in known)
        state.servers[i] = server._replace(
            held=server.held + held,
            asking=request if server.asking and not granted else None,
            unheard=(),
        )
        if variant:
            self._leave_on_network(state, ("lease", i, server.life, request))

    def _ask(self, state: State, server: s.Server, request: s.Request) -> list[Attempt]:
        state.now += 1.0
        holds = {(e.order, e.attempt) for e in state.ledger._groups.held_by(server.owner)}
        entries = state.ledger.lease(
            server.owner,
            request.request_id,
            self.instance.lease_size,
            *request.claim,
            state.now,
        )
        granted = [(entry.order, entry.attempt) for entry in entries]
        if server.asking == request:
            assert holds & {*server.unheard} <= {*granted}, "asked again, it gets other leases"
        others = [other for other in state.servers if other.owner != server.owner]
        taken = {held[:2] for other in others for held in other.held}
        assert not taken & set(granted), "one lease, two holders"
        return granted

    def _submit(self, state: State, i: int, k: int, variant: str) -> None:
        server = state.servers[i]
        held = server.held[k]
        assert server.engine is not None
        cache = held.born[:-1] if variant == "old cache" else held.born
        state.has_lagged |= variant == "old cache"
        message = ("submit", i, server.life, held[:2], held.born, server.engine, cache)
        state.servers[i] = server._replace(held=server.held[:k] + server.held[k + 1 :])
        self._receive(state, message)
        if variant == "twice":
            self._leave_on_network(state, message)

    def _receive(self, state: State, message: Message) -> None:
        """A submit reaches the ledger."""
        _, i, life, (order, attempt), born, newest, cache = message
        owner, group_id = (f"rollout-{i}", life), self.group_ids[order]
        entry = state.ledger._groups.by_id.get(group_id)
        is_current = entry is not None and entry.attempt == attempt
        is_in_force = is_current and entry.state is EntryState.LEASED and entry.owner == owner
        receipt = self._receipts.receipt(order, attempt, *map(len, (born, newest, cache)))
        verdict = state.ledger.submit(owner, group_id, attempt, receipt)
        if is_in_force:
            assert verdict in (Verdict.ACCEPTED, Verdict.STALE), f"{verdict}: work is lost"
        else:
            assert verdict in (Verdict.FENCED, Verdict.DUPLICATE), f"{verdict}: not its lease"
        if verdict is Verdict.ACCEPTED:
            state.contents[order] = s.Content(attempt, min(born, cache, key=len), newest)

    def _give_back(self, state: State, i: int, k: int) -> None:
        server = state.servers[i]
        order, attempt, _ = server.held[k]
        state.servers[i] = server._replace(held=server.held[:k] + server.held[k + 1 :])
        arguments = (server.owner, self.group_ids[order], attempt, Blame.SAMPLE, "?", state.now)
        if state.ledger.give_back(*arguments):
            state.quarantined |= {order}

    def _crash(self, state: State, i: int) -> None:
        """What it had sent may still arrive; the rest is lost."""
        server = state.servers[i]
        if server.owes_ack:
            self._leave_on_network(state, ("serve", i, server.life, server.claim))
        if server.asking is not None:
            self._leave_on_network(state, ("lease", i, server.life, server.asking))
        state.servers[i] = server._replace(is_alive=False, owes_ack=False, asking=None)

    def _rejoin(self, state: State, i: int) -> None:
        """A new life says hello; submits of the old one may still arrive."""
        server = state.servers[i]
        for held in server.held:
            born = held.born
            message = ("submit", i, server.life, held[:2], born, server.engine, born)
            self._leave_on_network(state, message)
        self._part_with(state, server.owner)
        state.network -= {m for m in state.network if m[:2] == ("lease", i)}  # refused from now on
        state.servers[i] = s.Server(i, server.life + 1)
        state.ledger.join(state.servers[i].owner, Role.ROLLOUT)

    def _silence(self, state: State, i: int) -> None:
        """The broker gives up a server that works on."""
        self._part_with(state, state.servers[i].owner)
        state.servers[i] = state.servers[i]._replace(served=-1)

    def _part_with(self, state: State, owner: Owner) -> None:
        held = state.ledger._groups.held_by(owner)
        before = len(state.ledger.quarantine.records)
        state.ledger.leave(owner, "member_lost", "?", state.now)
        given_up = self._note_given_up(state, before)
        assert not given_up or len(held) == 1, "the innocent are given up with the culprit"

    def _note_given_up(self, state: State, before: int) -> set[int]:
        """The groups that the last call has quarantined."""
        records = state.ledger.quarantine.records[before:]
        given_up = {int(record.group_id.partition("/")[2]) for record in records}
        state.quarantined |= given_up
        return given_up

    def _hello(self, state: State, i: int) -> None:
        state.ledger.join(state.servers[i].owner, Role.ROLLOUT)

    def _lapse(self, state: State) -> None:
        deadline = state.ledger.next_deadline()
        assert deadline is not None
        state.now = max(state.now, deadline)
        before = len(state.ledger.quarantine.records)
        assert state.ledger.lapse(state.now)
        self._note_given_up(state, before)

    # ---- the learner -----------------------------------------------------------------------------
    def _take(self, state: State, rank: int, variant: str) -> bool:
        learner = state.learner
        step, owner = learner.version + 1, learner.owner(rank)
        shard = None
        with self._refusals_kill(state):
            shard = state.ledger.take(owner, step, rank, self.instance.ranks)
        if shard is None or variant == "lost":
            return shard is not None or variant == ""
        if shard.exhausted:
            self._end(state)
            return variant == ""
        groups = tuple((entry.order, entry.attempt) for entry in shard.entries)
        for attempt in groups:
            self._check_fresh(state, attempt, step)
        state.learner = learner._replace(
            shards=_with(learner.shards, rank, groups),
            takings=_with(learner.takings, rank, shard.batch_id),
        )
        if variant:
            self._leave_on_network(state, ("take", rank, learner.life, step))
        return True

    def _lose(self, state: State, order: int) -> None:
        """The broker finds that the trajectories it keeps are damaged."""
        entry = state.ledger._groups.by_id[self.group_ids[order]]
        assert state.ledger.lose(entry.group_id, entry.attempt)
        state.may_refuse = True

    def _power(self, state: State) -> None:
        """The broker's machine was without power; luckily nothing was lost."""
        state.ledger.doubt()
        state.servers = [server._replace(served=-1) for server in state.servers]
        state.may_refuse = True

    @contextlib.contextmanager
    def _refusals_kill(self, state: State) -> Iterator[None]:
        """A learner that is refused ends, to be started again; that must have a reason."""
        try:
            yield
        except Refusal as refusal:
            assert state.may_refuse, f"a learner did nothing wrong and is refused: {refusal}"
            self._kill_learner(state)

    def _check_fresh(self, state: State, group: Attempt, step: int) -> None:
        order, attempt = group
        content = state.contents[order]
        assert content.attempt == attempt, "these trajectories were never submitted"
        weights = state.weights
        assert content.newest == weights[: len(content.newest)], "of weights that were undone"
        staleness = step - 1 - len(content.oldest)
        assert 0 <= staleness <= self.instance.staleness, f"staleness {staleness}"

    def _end(self, state: State) -> None:
        done = [order for step in state.surviving for order, _ in step.groups + step.refused]
        left = self.instance.num_samples - len({*done, *state.quarantined})
        assert left < self.instance.groups_per_step, f"{left} groups were never trained"
        state.learner = state.learner._replace(is_exhausted=True)

    def _train(self, state: State, variant: str) -> None:
        learner = state.learner
        groups = [group for shard in learner.shards if shard for group in shard]
        refused = tuple(groups[:1]) if variant else ()
        trained = tuple(group for group in groups if group not in refused)
        step = Trained(learner.life, trained, refused)
        state.learner = learner._replace(steps=(*learner.steps, step), has_trained=True)

    def _ack(self, state: State, rank: int, variant: str) -> None:
        learner = state.learner
        shard, taking = learner.shards[rank], learner.takings[rank]
        assert shard is not None
        refused = tuple(group for group in learner.steps[-1].refused if group in shard)
        message = ("ack", rank, learner.life, len(learner.steps), taking, shard, refused)
        with self._refusals_kill(state):
            is_done = self._acknowledge(state, message)
        if not state.learner.is_alive:
            return
        if variant == "twice":
            self._leave_on_network(state, message)
        if is_done and variant != "lost":
            done = _with(learner.done, rank, True)
            state.learner = learner._replace(done=done)
            if all(done):
                self._end_step(state)

    def _end_step(self, state: State) -> None:
        learner = state.learner
        assert learner.steps == state.surviving, "the learner's weights are of another history"
        state.learner = s.new_learner(self.instance, learner.life, learner.history, learner.steps)

    def _acknowledge(self, state: State, message: Message) -> bool:
        _, rank, life, step, taking, _, refused = message
        ledger = state.ledger
        before = ledger.version
        names = {self.group_ids[order]: "?" for order, _ in refused}
        is_done = ledger.acknowledge((f"learner-{rank}", life), step, taking, names, rank)
        if before < step:
            state.acknowledged[rank] = message
        if ledger.version > before:
            assert ledger.version == step == before + 1
            self._note_step(state, life)
        return is_done

    def _note_step(self, state: State, life: int) -> None:
        """All ranks have acknowledged: what they were trained on is in the history now."""
        assert len(state.acknowledged) == self.instance.ranks, "a rank has not acknowledged"
        groups, refused = [], []
        for rank in sorted(state.acknowledged):
            *_, shard, shard_refused = state.acknowledged[rank]
            refused += shard_refused
            groups += [group for group in shard if group not in shard_refused]
        state.acknowledged = {}
        for group in groups:
            self._check_fresh(state, group, len(state.surviving) + 1)
        state.surviving += (Trained(life, tuple(groups), tuple(refused)),)

    def _save(self, state: State, variant: str) -> None:
        """The broker is told first; a learner that dies then leaves no new checkpoint."""
        learner = state.learner
        state.ledger.commit(learner.version, len(state.checkpoints[0]))
        if variant == "dies":
            self._kill_learner(state)
        else:
            state.checkpoints = (*state.checkpoints, learner.steps)[-self.instance.keep :]

    def _kill_learner(self, state: State) -> None:
        learner = state.learner
        if learner.has_trained:
            for rank, (shard, taking) in enumerate(
                zip(learner.shards, learner.takings, strict=True)
            ):
                refused = tuple(g for g in learner.steps[-1].refused if g in (shard or ()))
                step = len(learner.steps)
                message = ("ack", rank, learner.life, step, taking, shard, refused)
                if not learner.done[rank]:
                    self._leave_on_network(state, message)
        state.learner = learner._replace(is_alive=False)

    def _resume(self, state: State, nth: int, variant: str) -> None:
        """The next life says hello and starts from a checkpoint."""
        steps = state.checkpoints[nth]
        assert steps == state.surviving[: len(steps)], "a checkpoint of another history"
        learner = state.learner
        new = s.new_learner(self.instance, learner.life + 1, 0, steps)
        for rank in range(self.instance.ranks):
            state.ledger.leave(learner.owner(rank), "member_lost", "?", state.now)
            state.ledger.join(new.owner(rank), Role.LEARNER)
        state.network -= {m for m in state.network if m[0] in ("take", "resume")}
        history = state.ledger.rewind(new.owner(0), len(steps))
        state.learner = new._replace(history=history)
        state.checkpoints = state.checkpoints[: nth + 1]
        state.acknowledged = {}
        if len(steps) < len(state.surviving):
            state.servers = [server._replace(served=-1) for server in state.servers]
        state.surviving = steps
        state.freed = min(state.freed, len(steps))
        if variant:
            self._leave_on_network(state, ("resume", new.life, len(steps)))

    # ---- the network -----------------------------------------------------------------------------
    def _leave_on_network(self, state: State, message: Message) -> None:
        state.network |= {message}

    def _arrives(self, state: State, message: Message) -> None:
        state.network -= {message}
        getattr(self, "_late_" + message[0])(state, message)

    def _late_submit(self, state: State, message: Message) -> None:
        self._receive(state, message)

    def _late_serve(self, state: State, message: Message) -> None:
        self._serve(state, *message[1:])

    def _late_lease(self, state: State, message: Message) -> None:
        """Nobody hears the answer any more."""
        _, i, life, request = message
        if (f"rollout-{i}", life) in state.ledger.members:
            self._ask(state, state.servers[i], request)

    def _late_take(self, state: State, message: Message) -> None:
        _, rank, life, step = message
        owner = (f"learner-{rank}", life)
        with contextlib.suppress(Refusal):
            state.ledger.take(owner, step, rank, self.instance.ranks)

    def _late_ack(self, state: State, message: Message) -> None:
        with contextlib.suppress(Refusal):
            self._acknowledge(state, message)

    def _late_resume(self, state: State, message: Message) -> None:
        _, life, step = message
        with self._refusals_kill(state):
            state.ledger.rewind(("learner-0", life), step)

    # ---- ghosts ----------------------------------------------------------------------------------
    def _note_freed(self, state: State) -> None:
        served = [server.served for server in state.servers if server.served >= 0]
        if served:
            state.freed = max(state.freed, min(*served, len(state.surviving)))


def _with(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])
