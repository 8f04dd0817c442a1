"""Bugs that others had, put into the real classes one at a time: the proofs must see each of them.

Every mutant names where the bug was reported (or what the report asks for), and the proof that must
catch it: an instance for the search, WALK for the walks against the reference, SIMULATOR for the
simulator (what only the service, the store or the network can show).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from broker.ledger.accounts import Amounts
from broker.ledger.entry import Entry, Receipt, Rules, State
from broker.ledger.groups import Groups
from broker.ledger.ledger import Ledger
from broker.ledger.servers import Servers
from broker.ledger.steps import Steps
from broker.protocol import Verdict
from broker.service.membership import Membership
from broker.storage.durable import DurableStore
from common.group import Responses
from tests.broker.proof import state as s
from tests.broker.proof.state import Instance

WALK, SIMULATOR = "random walks", "simulator"
_GITHUB = "https://github.com"
_RFC = f"{_GITHUB}/verl-project/verl/issues/7579"  # asks for fences, a journal, reconciliation
Patches = dict[tuple[type, str], Any]  # (class, attribute) -> what it becomes


class Mutant(NamedTuple):
    name: str
    bug: str
    url: str
    caught_by: Instance | str
    make: Callable[[], Patches]


MUTANTS: list[Mutant] = []


@contextlib.contextmanager
def installed(mutant: Mutant) -> Iterator[None]:
    """The bug is in the real classes while the context lasts."""
    patches = mutant.make()
    originals = {place: place[0].__dict__[place[1]] for place in patches}
    try:
        for (owner, name), replacement in patches.items():
            setattr(owner, name, replacement)
        yield
    finally:
        for (owner, name), original in originals.items():
            setattr(owner, name, original)


def _mutant(url: str, caught_by: Instance | str) -> Callable[[Callable[[], Patches]], None]:
    """Lists a function that makes the patches; its name and docstring say what the bug is."""

    def add(make: Callable[[], Patches]) -> None:
        name, bug = make.__name__.replace("_", " "), make.__doc__ or ""
        MUTANTS.append(Mutant(name, bug, url, caught_by, make))

    return add


def _instance(staleness: int, *kinds: str, faults: int = 1, **others: Any) -> Instance:
    settings: dict[str, Any] = {"num_samples": 3, "groups_per_step": 1} | others
    return Instance(staleness=staleness, faults=faults, kinds=kinds, **settings)


# ---- slots and staleness -------------------------------------------------------------------------
@_mutant(f"{_GITHUB}/marin-community/marin/issues/8936", _instance(0))
def slots_freed_at_take() -> Patches:
    """Only the queue is counted, so groups start on weights that will be too old."""
    return {(Steps, "num_ahead"): property(lambda steps: 0)}


@_mutant(f"{_GITHUB}/Tencent-Hunyuan/UniRL/pull/310", _instance(0))
def slots_freed_at_acknowledgement() -> Patches:
    """The weights exist, but no server has them yet: publish lag is taken for staleness."""
    return {(Servers, "floor"): lambda servers: 10**6}


@_mutant(f"{_GITHUB}/sgl-project/sglang-omni/pull/784", _instance(0))
def the_floor_ignores_the_slowest_server() -> Patches:
    """A server that missed an update is not waited for."""
    return {(Servers, "floor"): lambda servers: max(servers._counts, default=None)}


@_mutant(f"{_GITHUB}/NVIDIA-NeMo/RL/pull/3613", _instance(0, s.SERVER))
def servers_that_left_hold_the_floor() -> Patches:
    """A dead server is waited for: the run hangs."""

    def remove(servers: Servers, owner: Any) -> None:
        servers._versions.pop(owner, None)

    return {(Servers, "remove"): remove}


@_mutant(f"{_GITHUB}/huggingface/trl/pull/5650", _instance(0))
def one_step_of_slots_too_few() -> Patches:
    """S * P in flight instead of (s + 1) * P."""
    return {(Rules, "slots"): property(lambda rules: rules.max_staleness * rules.groups_per_step)}


@_mutant(f"{_GITHUB}/allenai/open-instruct/pull/1738", _instance(0, s.STALE))
def no_guard() -> Patches:
    """Stale groups are trained on."""
    return {(Steps, "is_stale"): lambda steps, entry, step: False}


@_mutant(f"{_GITHUB}/verl-project/verl/pull/7568", _instance(0, s.STALE))
def versions_by_belief() -> Patches:
    """A group counts as generated with what its server is believed to serve."""
    original = Ledger.submit

    def submit(ledger: Ledger, owner: Any, group_id: str, attempt: int, receipt: Receipt) -> Any:
        believed = max(0, ledger.servers.version_of(owner))
        receipt = receipt._replace(oldest_version=believed, newest_version=believed)
        return original(ledger, owner, group_id, attempt, receipt)

    return {(Ledger, "submit"): submit}


@_mutant(f"{_GITHUB}/rllm-org/rllm/pull/622", _instance(0, s.STALE))
def staleness_of_the_newest_token() -> Patches:
    """The version is stamped at completion."""

    def is_stale(steps: Steps, entry: Entry, step: int) -> bool:
        assert entry.receipt is not None
        return step - 1 - entry.receipt.newest_version > steps.rules.max_staleness

    return {(Steps, "is_stale"): is_stale}


@_mutant(f"{_GITHUB}/sgl-project/sglang/pull/36468", _instance(0, s.STALE))
def age_of_caches_ignored() -> Patches:
    """Tokens computed from KV or image embeddings of old weights count as new."""
    oldest = property(lambda responses: min(responses.span_versions))
    return {(Responses, "oldest_version"): oldest}


# ---- leases --------------------------------------------------------------------------------------
@_mutant(_RFC, _instance(0, s.LAPSE))
def no_fence() -> Patches:
    """A zombie's submit of an attempt that is over is accepted."""
    original = Ledger.submit

    def submit(ledger: Ledger, owner: Any, group_id: str, attempt: int, receipt: Receipt) -> Any:
        entry = ledger._groups.by_id.get(group_id)
        if entry is not None and entry.state is State.LEASED:
            owner, attempt = entry.owner, entry.attempt
        return original(ledger, owner, group_id, attempt, receipt)

    return {(Ledger, "submit"): submit}


@_mutant(_RFC, WALK)
def owner_not_compared() -> Patches:
    """Anybody may submit for the holder of a lease."""
    original = Ledger.submit

    def submit(ledger: Ledger, owner: Any, group_id: str, attempt: int, receipt: Receipt) -> Any:
        entry = ledger._groups.by_id.get(group_id)
        holder = owner if entry is None or entry.owner is None else entry.owner
        return original(ledger, holder, group_id, attempt, receipt)

    return {(Ledger, "submit"): submit}


@_mutant("https://jepsen.io/analyses/redpanda-21.10.1", _instance(0, s.NET))
def accepted_twice() -> Patches:
    """A submit sent twice counts twice."""
    original = Ledger.submit

    def submit(ledger: Ledger, owner: Any, group_id: str, attempt: int, receipt: Receipt) -> Any:
        verdict = original(ledger, owner, group_id, attempt, receipt)
        if verdict is not Verdict.DUPLICATE:
            return verdict
        ledger.books.issue(Amounts(1, len(receipt.lengths), sum(receipt.lengths)))
        return Verdict.ACCEPTED

    return {(Ledger, "submit"): submit}


@_mutant("https://apple.github.io/foundationdb/testing.html", _instance(1, s.NET))
def a_retry_gets_new_leases() -> Patches:
    """A request whose outcome is unknown is carried out again."""
    original = Ledger.lease

    def lease(ledger: Ledger, owner: Any, request_id: bytes, *rest: Any) -> Any:
        return original(ledger, owner, b"%d" % ledger.books.samples.issued, *rest)

    return {(Ledger, "lease"): lease}


@_mutant(f"{_GITHUB}/NVIDIA-NeMo/RL/pull/3599", _instance(0, s.LAPSE))
def lapsed_leases_are_lost() -> Patches:
    """What a dead server was given is never issued again."""
    original = Groups.end_lease

    def end_lease(groups: Groups, entry: Entry, reason: str) -> None:
        original(groups, entry, reason)
        if reason == "lease_lapsed":
            groups.returned.remove(entry)
            groups.pending.remove(entry)
            del groups.by_id[entry.group_id]

    return {(Groups, "end_lease"): end_lease}


@_mutant(f"{_GITHUB}/huggingface/trl/issues/7274", _instance(0, s.STALE))
def a_stale_drop_pins_the_cursor() -> Patches:
    """A group that was dropped is waited for ever after."""
    original = Groups.expire

    def expire(groups: Groups, entry: Entry, reason: str) -> None:
        original(groups, entry, reason)
        groups.returned.remove(entry)

    return {(Groups, "expire"): expire}


@_mutant(f"{_GITHUB}/huggingface/trl/issues/7274", _instance(0, s.BROKEN))
def a_broken_sample_blocks() -> Patches:
    """A quarantined sample keeps its place and its slot."""
    original = Groups.quarantine

    def quarantine(groups: Groups, entry: Entry) -> None:
        original(groups, entry)
        groups.pending.insert(0, entry)

    return {(Groups, "quarantine"): quarantine}


@_mutant(f"{_GITHUB}/PrimeIntellect-ai/prime-rl/issues/1713", _instance(0, s.LAPSE))
def nobody_is_woken() -> Patches:
    """Held requests are not looked at when a group comes back: all idle."""
    return {
        (Ledger, "supply"): property(
            lambda ledger: ledger._num_openings + ledger.steps.num_openings
        )
    }


# ---- the learner ---------------------------------------------------------------------------------
@_mutant(_RFC, _instance(0, s.NET))
def taken_at_most_once() -> Patches:
    """A batch whose reply was lost is gone."""
    original = Ledger.take

    def take(ledger: Ledger, *arguments: Any) -> Any:
        return None if ledger.steps.current is not None else original(ledger, *arguments)

    return {(Ledger, "take"): take}


@_mutant(_RFC, _instance(0, s.LEARNER))
def acknowledged_by_anybody() -> Patches:
    """A learner's late word counts for its successor's step."""
    original = Ledger.acknowledge

    def acknowledge(
        ledger: Ledger, owner: Any, step: int, taking: int, refused: Any, rank: int = 0
    ) -> bool:
        if ledger.steps.current is not None:
            owner, taking = (
                ledger.steps.current.holders.get(rank, owner),
                ledger.steps.current.batch_id,
            )
        return original(ledger, owner, step, taking, refused, rank)

    return {(Ledger, "acknowledge"): acknowledge}


@_mutant(
    f"{_GITHUB}/huggingface/trl/issues/6797",
    _instance(0, groups_per_step=2, num_samples=4, servers=1, ranks=2),
)
def one_rank_speaks_for_all() -> Patches:
    """A step ends when its first rank is done."""
    original = Ledger.acknowledge

    def acknowledge(ledger: Ledger, *arguments: Any) -> bool:
        if not original(ledger, *arguments):
            assert ledger.steps.current is not None
            ledger.steps._finish_step(ledger.steps.current)
        return True

    return {(Ledger, "acknowledge"): acknowledge}


@_mutant(f"{_GITHUB}/PrimeIntellect-ai/prime-rl/issues/823", _instance(0, s.LEARNER))
def a_commit_forgets_the_checkpoint_before() -> Patches:
    """A learner that dies between commit and rename cannot resume."""
    original = Ledger.commit

    def commit(ledger: Ledger, step: int, oldest: int) -> None:
        original(ledger, step, step)

    return {(Ledger, "commit"): commit}


# ---- resuming ------------------------------------------------------------------------------------
@_mutant(
    f"{_GITHUB}/huggingface/trl/pull/5911", _instance(0, s.LEARNER, s.NET, faults=2, num_samples=2)
)
def resumed_twice() -> Patches:
    """A repeated resume undoes what was trained since the first."""
    original = Ledger.rewind

    def rewind(ledger: Ledger, owner: Any, step: int) -> int:
        ledger.steps._resumed_by = None
        return original(ledger, owner, step)

    return {(Ledger, "rewind"): rewind}


@_mutant(_RFC, _instance(1, s.LEARNER))
def leases_outlive_a_rewind() -> Patches:
    """Groups of weights that were undone are accepted."""
    original = Steps._undo_since

    def undo(steps: Steps, step: int) -> None:
        leased, steps._groups.leased = steps._groups.leased, {}
        original(steps, step)
        steps._groups.leased = leased

    return {(Steps, "_undo_since"): undo}


@_mutant(_RFC, _instance(1, s.LEARNER))
def groups_of_the_future_survive() -> Patches:
    """A restored buffer holds groups of weights that were undone."""
    original = Groups.expire

    def expire(groups: Groups, entry: Entry, reason: str) -> None:
        if reason != "rewound":
            original(groups, entry, reason)

    return {(Groups, "expire"): expire}


@_mutant(f"{_GITHUB}/OpenRLHF/OpenRLHF/issues/1322", _instance(0, s.LEARNER))
def the_buffer_is_dropped() -> Patches:
    """What a dead learner had taken is never trained."""
    original = Groups.untake

    def untake(groups: Groups, entries: list[Entry]) -> None:
        original(groups, entries)
        del groups.pending[: len(entries)]

    return {(Groups, "untake"): untake}


@_mutant(
    f"{_GITHUB}/NVIDIA-NeMo/RL/pull/3599",
    _instance(0, s.LEARNER, s.REFUSE, faults=2, num_samples=2),
)
def what_was_refused_stays_lost() -> Patches:
    """Groups that an undone step had refused do not come back."""
    original = Groups.undo

    def undo(groups: Groups, entries: list[Entry], refused: set[str]) -> None:
        original(groups, [entry for entry in entries if entry.group_id not in refused], refused)

    return {(Groups, "undo"): undo}


@_mutant(f"{_GITHUB}/NVIDIA-NeMo/RL/pull/3480", _instance(0, s.LEARNER))
def the_epoch_begins_again() -> Patches:
    """The position in the data is not restored."""
    original = Ledger.rewind

    def rewind(ledger: Ledger, owner: Any, step: int) -> int:
        if ledger.steps._resumed_by not in (None, owner):
            ledger._groups.next_order = 0
        return original(ledger, owner, step)

    return {(Ledger, "rewind"): rewind}


@_mutant(f"{_GITHUB}/radixark/miles/issues/1697", _instance(0, s.LEARNER, acks_are_slow=True))
def histories_are_mixed_up() -> Patches:
    """A version number of undone weights is taken for one of the new."""
    original = Ledger.serve

    def serve(ledger: Ledger, owner: Any, history: int, version: int) -> None:
        original(ledger, owner, ledger.history, min(version, ledger.version))

    return {(Ledger, "serve"): serve}


# ---- service and store ---------------------------------------------------------------------------
@_mutant(_RFC, SIMULATOR)
def the_dead_are_let_in() -> Patches:
    """Requests of a life that is over are carried out for its successor."""
    original = Membership.seen

    def seen(membership: Membership, member_id: str, incarnation: int, now: float) -> Any:
        known = membership._members.get(member_id)
        return original(membership, member_id, known.incarnation if known else incarnation, now)

    return {(Membership, "seen"): seen}


@_mutant(f"{_GITHUB}/verl-project/verl/issues/7579", SIMULATOR)
def acknowledged_before_written() -> Patches:
    """An answer does not wait for the journal."""
    return {(DurableStore, "flush"): lambda store: None}


@_mutant("https://jepsen.io/analyses/nats-2.12.1", SIMULATOR)
def never_synced() -> Patches:
    """A commit is acknowledged that a power cut takes back."""

    def sync(store: DurableStore) -> None:
        store._unsynced, store._doomed = set(), []
        store._num_syncs += 1

    return {(DurableStore, "sync"): sync}
