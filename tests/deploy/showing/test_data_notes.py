import json

from broker.protocol import DataStatus, Status
from deploy.showing.data_lines import data_lines
from deploy.showing.data_notes import DataNotes, counts_text, retry_text
from deploy.showing.outcome import outcome_text
from deploy.showing.picture import plain_line
from tests.deploy.showing.support import GAUGES, SUMMARY, drawn, status

DATA = DataStatus(
    rows=40,
    refused_rows=2,
    quarantined_samples=1,
    first=("row 3: box lies outside", "row 9: crop is empty", "sample s7 quarantined: HTTP 500"),
    retried_groups=1,
    failed_attempts=5,
    last_failure="sample s8: /generate: HTTP 500: no",
)


def with_data(data: DataStatus) -> Status:
    return status(GAUGES).model_copy(update={"data": data})


def test_each_reason_is_told_once_and_retries_at_doubling_counts() -> None:
    told: list[str] = []
    notes = DataNotes(told.append)
    for failures in range(9):
        notes.update(with_data(DATA.model_copy(update={"failed_attempts": failures})), 1.0)
    assert told[:3] == list(DATA.first)
    assert [line.partition(" so far")[0] for line in told[3:]] == [
        "trying 1 group again (1 failed attempt",
        *(f"trying 1 group again ({count} failed attempts" for count in (2, 4, 8)),
    ]
    assert told[-1].endswith("the last: sample s8: /generate: HTTP 500: no)")


def test_the_fault_that_ends_a_run_is_told_once() -> None:
    told: list[str] = []
    notes = DataNotes(told.append)
    for _ in range(2):
        notes.update(with_data(DataStatus(ended_because="of 40 rows 9 quarantined")), 1.0)
    assert told == ["the run ends: of 40 rows 9 quarantined"]


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    told: list[str] = []
    DataNotes(told.append).update(with_data(DataStatus(rows=40)), 1.0)
    assert told == [] and counts_text(DataStatus(rows=40)) == retry_text(DataStatus()) == ""
    assert data_lines(SUMMARY) == []


def test_views_show_counts_with_their_units() -> None:
    state = with_data(DATA)
    text = "2 rows refused, 1 sample quarantined of 40 rows"
    assert text in plain_line(state, 9.0)
    picture = drawn(state)
    assert text in picture and "trying 1 group again" in picture
    assert "groups" in picture and "quarantined" in picture


def test_what_servers_gave_back_in_good_order_is_not_called_expired() -> None:
    state = with_data(DataStatus(given_back_groups=2))
    lines = drawn(state).splitlines()
    at = next(number for number, line in enumerate(lines) if "expired" in line)
    column = lines[at].index("expired") + len("expired")
    assert lines[at + 1][:column].split()[-1] == "0"
    text = outcome_text(SUMMARY | {"trajectories_expired": 0, "trajectories_given_back": 32})
    assert "0 expired, 32 given back by servers that stopped" in text


def test_the_end_says_what_was_not_trained_and_why() -> None:
    summary = SUMMARY | {
        "data_rows": 40,
        "data_rows_refused": 2,
        "samples_quarantined": 1,
        "first_refused": list(DATA.first),
        "groups_left_over": 2,
        "groups_total": 38,
        "data_fault": "nothing was trained: no group came through",
    }
    assert json.loads(json.dumps(data_lines(summary))) == [
        "of 40 rows 2 refused when they were read, 1 quarantined since; all reasons: "
        "quarantine.jsonl. The first:",
        "  row 3: box lies outside",
        "  row 9: crop is empty",
        "  sample s7 quarantined: HTTP 500",
        "2 of 38 groups (samples x data.epochs) are left over: too few for one more step of "
        "learner.groups_per_step",
        "the run ended because of its data: nothing was trained: no group came through",
    ]
