"""The run's status as figures for Prometheus (`common.scrape.exported` declares them)."""

from collections import Counter

from broker.ledger.accounts import Amounts, Place
from broker.protocol import Role, Status
from common.scrape.collector import Readings


def figures_of(status: Status) -> Readings:
    """What the broker knows of the run: its books, its members, its store."""
    members = status.members
    return {
        "broker/version": status.version,
        "broker/steps_planned": status.total_steps,
        "broker/committed_version": status.committed,
        "broker/is_finished": status.finished,
        "broker/run_s": status.seconds,
        "broker/slots": status.slots,
        "broker/slots_used": status.slots_used,
        "broker/staleness_max_steps": status.max_staleness_seen,
        **_books(status.counts),
        "broker/trajectories_expired": status.expired_by_reason,
        "broker/members": Counter(member.role.value for member in members),
        "broker/members_lost": len(status.lost),
        "broker/member_silent_s": {m.member_id: m.silent_s for m in members} | status.lost,
        "broker/member_version": {
            m.member_id: m.acknowledged_version
            for m in members
            if m.role is Role.ROLLOUT and m.acknowledged_version >= 0
        },
        "broker/rows_refused": status.data.refused_rows,
        "broker/samples_quarantined": status.data.quarantined_samples,
        "broker/attempts_failed": status.data.failed_attempts,
        "broker/store_failed": bool(status.store_failure),
        **{f"broker/{name}": value for name, value in status.storage.items()},
    }


def _books(counts: dict[str, int]) -> dict[str, float | dict[str, float]]:
    """The ledger's counts, those of places by their unit."""
    figures: dict[str, float | dict[str, float]] = {}
    for unit in Amounts._fields:
        figures[f"broker/{unit}"] = {place.value: counts[f"{unit}_{place}"] for place in Place}
        figures[f"broker/{unit}_issued"] = counts[f"{unit}_issued"]
    for name in ("groups_never_issued", "groups_to_issue_again"):
        figures[f"broker/{name}"] = counts[name]
    return figures
