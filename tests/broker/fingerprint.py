"""Everything that a ledger's behaviour depends on, as plain comparable values."""

from typing import Any

from broker.ledger.entry import Entry, Step
from broker.ledger.ledger import Ledger


def fingerprint(ledger: Ledger) -> tuple[Any, ...]:
    groups = ledger._groups
    return (
        ledger.rules,
        ledger.version,
        ledger.history,
        ledger.steps.freed,
        ledger.steps.committed,
        ledger.steps.pruned,
        ledger.steps.max_staleness_seen,
        ledger.steps.is_finished,
        tuple(sorted(ledger.members.items())),
        tuple(sorted(ledger.servers.all().items())),
        ledger.steps._resumed_by,
        ledger.steps._is_doubtful,
        ledger.steps._num_unfreed,
        ledger.steps._num_takings,
        None if ledger.steps.current is None else _step(ledger.steps.current),
        tuple(_step(step) for step in ledger.steps.done),
        groups.next_order,
        groups.num_skipped,
        tuple(ledger.quarantine.records),
        ledger.num_failures,
        ledger.last_failure,
        groups.first_attempt,
        tuple(_entry(entry) for entry in groups.pending),
        tuple(entry.order for entry in groups.returned),
        tuple(groups.leased),
        tuple(sorted((owner, *sorted(held)) for owner, held in groups.held.items())),
        tuple(sorted(groups.by_id)),
        tuple(sorted(ledger.counts().items())),
        tuple(sorted(ledger.books.samples.expired_by_reason.items())),
        tuple(sorted(ledger.books.tokens.expired_by_reason.items())),
        tuple(sorted((+ledger.books.lengths.trained).items())),
        tuple(sorted((+ledger.books.lengths.expired).items())),
    )


def _entry(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.order,
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


def _step(step: Step) -> tuple[Any, ...]:
    return (
        step.number,
        step.batch_id,
        tuple(_entry(entry) for entry in step.entries),
        step.shards,
        tuple(sorted(step.holders.items())),
        tuple(sorted(step.acknowledged)),
        tuple(sorted(step.refused.items())),
    )
