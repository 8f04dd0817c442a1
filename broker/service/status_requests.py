"""The request that anyone may make: for the run's status."""

from collections.abc import Mapping

from broker import protocol as p
from broker.service.handlers import Call, handles
from broker.service.membership import Member
from broker.service.recorder import LedgerRecorder
from common.data_health import DataRows, first_lines


class StatusRequests:
    """Handler of the request for the run's status.

    Args:
        rows: of the data set, with those that were refused.
    """

    def __init__(self, recorder: LedgerRecorder, run_id: str, rows: DataRows) -> None:
        self._recorder = recorder
        self._run_id = run_id
        self._rows = rows

    @handles(p.GetStatus)
    def status(self, request: p.GetStatus, call: Call) -> p.Status:
        return self.at(call.now)

    def at(self, now: float) -> p.Status:
        """The run's status at a time of the service's clock."""
        recorder, ledger, membership = (
            self._recorder,
            self._recorder.ledger,
            self._recorder.membership,
        )
        return p.Status(
            run_id=self._run_id,
            version=ledger.version,
            history=ledger.history,
            committed=ledger.steps.committed,
            total_steps=ledger.steps.total_steps,
            finished=recorder.is_finished,
            counts=ledger.counts(),
            expired_by_reason=dict(ledger.books.trajectories.expired_by_reason),
            trained_lengths=_by_name(ledger.books.lengths.trained),
            expired_lengths=_by_name(ledger.books.lengths.expired),
            max_staleness_seen=ledger.steps.max_staleness_seen,
            slots_used=ledger.slots_used,
            slots=ledger.rules.slots,
            storage=recorder.store.figures(),
            data=self._data_status(),
            members=tuple(self._status_of(member, now) for member in membership.all()),
            lost=membership.lost(now),
            store_failure=recorder.store.failure or "",
            seconds=now,
        )

    def _data_status(self) -> p.DataStatus:
        ledger = self._recorder.ledger
        return p.DataStatus(
            rows=self._rows.total,
            refused_rows=len(self._rows.refused),
            quarantined_samples=ledger.quarantine.num_samples,
            first=first_lines(self._rows, ledger.quarantine),
            left_over_groups=ledger.steps.left_over,
            all_groups=ledger.num_groups,
            given_back_groups=ledger.books.samples.expired_by_reason["member_left"],
            retried_groups=len(ledger.retried),
            failed_attempts=ledger.num_failures,
            last_failure=ledger.last_failure,
            ended_because=self._recorder.ended_because,
        )

    def _status_of(self, member: Member, now: float) -> p.MemberStatus:
        return p.MemberStatus(
            member_id=member.member_id,
            role=member.role,
            silent_s=max(0.0, now - member.last_seen_s),
            acknowledged_version=self._recorder.ledger.servers.version_of(member.owner),
            gauges=member.gauges,
            details=member.details,
        )


def _by_name(histogram: Mapping[int, int]) -> dict[str, int]:
    return {str(length): count for length, count in sorted(histogram.items())}
