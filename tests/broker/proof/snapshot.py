"""Copies of a ledger, many times faster than `copy.deepcopy`: the search makes one a transition.

They reach into the ledger on purpose. `assert_complete` fails when the ledger has grown a part that
this page does not know yet.
"""

from collections import Counter, deque

from broker.ledger.accounts import Account, Books
from broker.ledger.entry import Entry, Step
from broker.ledger.groups import Groups
from broker.ledger.ledger import Ledger
from broker.ledger.servers import Servers
from broker.ledger.steps import Steps

_SCALARS = {  # immutable, or never changed: shared
    "rules", "num_failures", "last_failure", "_revision", "_num_openings",
}  # fmt: skip
_PARTS = {"servers", "members", "quarantine", "steps", "_groups", "_rests"}
_STEP_SCALARS = {
    "rules", "version", "history", "freed", "committed", "pruned", "is_finished",
    "max_staleness_seen", "revision", "num_openings", "_num_unfreed", "_num_takings",
    "_resumed_by", "_is_doubtful",
}  # fmt: skip
_STEP_PARTS = {"current", "done", "_blocker", "_groups", "_servers", "_quarantine"}
_GROUP_SCALARS = {
    "next_order", "num_returns", "num_skipped", "first_attempt", "_source",
    "_trajectories_per_sample",
}  # fmt: skip
_GROUP_PARTS = {"books", "by_id", "pending", "returned", "leased", "held"}


def copy_ledger(ledger: Ledger) -> Ledger:
    """The same ledger again; the two share nothing that changes."""
    copy = _shallow(ledger)
    entries = {entry.order: _copy_entry(entry) for entry in ledger._groups.by_id.values()}
    copy.servers = _copy_servers(ledger.servers)
    copy.members = ledger.members.copy()
    copy._groups = _copy_groups(ledger._groups, entries)
    copy._rests = ledger._rests.copy()
    copy.quarantine = _shallow(ledger.quarantine)
    copy.quarantine.records = ledger.quarantine.records.copy()
    copy.quarantine._times = _copy_counter(ledger.quarantine._times)
    copy.steps = _copy_steps(ledger.steps, entries, copy)
    return copy


def assert_complete(ledger: Ledger) -> None:
    assert vars(ledger).keys() == _SCALARS | _PARTS
    assert vars(ledger.steps).keys() == _STEP_SCALARS | _STEP_PARTS
    assert vars(ledger._groups).keys() == _GROUP_SCALARS | _GROUP_PARTS
    assert vars(ledger.quarantine).keys() == {"records", "_times"}
    assert vars(ledger.servers).keys() == {"_versions", "_counts"}
    books = ledger.books
    assert vars(books).keys() == {"lengths", "samples", "trajectories", "tokens", "_accounts"}
    assert vars(books.samples).keys() == {"issued", "places", "expired_by_reason"}
    assert vars(books.lengths).keys() == {"trained", "expired"}


def _shallow(original):
    copy = object.__new__(type(original))
    copy.__dict__.update(original.__dict__)
    return copy


def _copy_groups(groups: Groups, entries: dict[int, Entry]) -> Groups:
    copy = _shallow(groups)
    copy.books = _copy_books(groups.books)
    copy.by_id = {group_id: entries[entry.order] for group_id, entry in groups.by_id.items()}
    copy.pending = [entries[entry.order] for entry in groups.pending]
    copy.returned = [entries[entry.order] for entry in groups.returned]
    copy.leased = {group_id: entries[entry.order] for group_id, entry in groups.leased.items()}
    copy.held = {
        owner: {group_id: entries[entry.order] for group_id, entry in held.items()}
        for owner, held in groups.held.items()
    }
    return copy


def _copy_steps(steps: Steps, entries: dict[int, Entry], ledger: Ledger) -> Steps:
    """The same steps at work on the groups, servers and quarantine of `ledger`, a copy itself."""
    copy = _shallow(steps)
    copy._groups, copy._servers = ledger._groups, ledger.servers
    copy._quarantine = ledger.quarantine
    copy.done = deque([_copy_step(step, entries) for step in steps.done])
    if steps.current is not None:
        copy.current = _copy_step(steps.current, entries)
    if steps._blocker is not None:
        known = entries.get(steps._blocker.order)
        copy._blocker = _copy_entry(steps._blocker) if known is None else known
    return copy


def _copy_entry(entry: Entry) -> Entry:
    return Entry(
        entry.order,
        entry.assignment,
        entry.state,
        entry.attempt,
        entry.failures,
        entry.owner,
        entry.request_id,
        entry.deadline,
        entry.receipt,
        entry.returns,
        entry.is_suspect,
        entry.is_alone,
        entry.rests_until,
        entry.last_failure,
    )


def _copy_step(step: Step, entries: dict[int, Entry]) -> Step:
    return Step(
        step.number,
        step.batch_id,
        [entries[entry.order] for entry in step.entries],
        step.shards,
        step.holders.copy(),
        step.acknowledged.copy(),
        step.refused.copy(),
    )


def _copy_servers(servers: Servers) -> Servers:
    copy = _shallow(servers)
    copy._versions = servers._versions.copy()
    copy._counts = _copy_counter(servers._counts)
    return copy


def _copy_books(books: Books) -> Books:
    copy = _shallow(books)
    copy.lengths = _shallow(books.lengths)
    copy.lengths.trained = _copy_counter(books.lengths.trained)
    copy.lengths.expired = _copy_counter(books.lengths.expired)
    copy.samples = _copy_account(books.samples)
    copy.trajectories = _copy_account(books.trajectories)
    copy.tokens = _copy_account(books.tokens)
    copy._accounts = (copy.samples, copy.trajectories, copy.tokens)
    return copy


def _copy_account(account: Account) -> Account:
    copy = _shallow(account)
    copy.places = account.places.copy()
    copy.expired_by_reason = _copy_counter(account.expired_by_reason)
    return copy


def _copy_counter(counter: Counter) -> Counter:
    copy = Counter.__new__(Counter)
    dict.update(copy, counter)  # Counter's own constructor takes ten times as long
    return copy
