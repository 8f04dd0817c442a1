import pytest

from broker.ledger.entry import Entry
from broker.ledger.quarantine import Quarantine
from common.data_health import DataRows, RefusedRow, data_fault, first_lines, nothing_trained
from common.source import Assignment
from tests.broker.support import make_sample


def refused(number: int) -> RefusedRow:
    return RefusedRow(number, None, "box is empty")


def quarantine(*sample_ids: str) -> Quarantine:
    kept = Quarantine()
    for sample_id in sample_ids:
        sample = make_sample(int(sample_id, 36)).model_copy(update={"sample_id": sample_id})
        entry = Entry(0, Assignment(f"0/{sample_id}", sample, 0))
        kept.give_up(entry, "rollout", 3, "/generate: HTTP 500: no")
    return kept


@pytest.mark.parametrize(
    ("rows", "share", "allowed"),
    [(4, 0.1, 1), (10, 0.1, 1), (19, 0.1, 1), (20, 0.1, 2), (100, 0.29, 29), (4, 0, 0), (7, 1, 7)],
)
def test_one_row_is_always_allowed_unless_the_limit_is_zero(
    rows: int, share: float, allowed: int
) -> None:
    assert DataRows(rows, (), share).allowed == allowed


def test_refused_rows_and_quarantined_samples_count_together() -> None:
    rows = DataRows(19, (refused(3),), 0.1)  # of 20 two are allowed
    assert data_fault(rows, quarantine("a")) is None
    assert data_fault(rows, quarantine("a", "b")) == (
        "of 20 rows of data.train 1 refused when they were read and 2 quarantined; "
        "data.max_refused_share = 0.1 allows 2: row 3: box is empty; sample a quarantined after 3 "
        "attempts: /generate: HTTP 500: no; sample b quarantined after 3 attempts: /generate: "
        "HTTP 500: no. Fix: correct them, or raise data.max_refused_share (1: any number)"
    )


def test_a_sample_that_is_given_up_in_two_epochs_counts_once() -> None:
    assert data_fault(DataRows(10, (), 0.1), quarantine("a", "a")) is None


def test_the_switch_is_off_at_one() -> None:
    assert data_fault(DataRows(1, (refused(0),), 1.0), quarantine("a")) is None


def test_only_the_first_reasons_are_told() -> None:
    rows = DataRows(9, tuple(map(refused, range(4))), 1.0)
    lines = first_lines(rows, quarantine("a", "b"))
    assert len(lines) == 5 and lines[3] == "row 3: box is empty" and lines[4].startswith("sample a")
    assert nothing_trained(lines).count("box is empty") == 3
