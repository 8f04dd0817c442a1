from typing import Any

import pytest

from broker import protocol as p
from learner.data_summary import data_summary
from tests.broker.support import make_rules, make_service, make_source


def status(trajectories: dict[str, int], **data: Any) -> p.Status:
    service = make_service(make_source(8), make_rules(2))
    (reply,) = service.handle(b"", b"1", p.GetStatus(), 0.0)
    assert isinstance(reply.message, p.Status)
    changes = {
        "counts": {f"trajectories_{key}": value for key, value in trajectories.items()},
        "expired_by_reason": {"lease_lapsed": 4, "member_left": 28},
        "data": p.DataStatus(**data),
    }
    return reply.message.model_copy(update=changes)


def test_what_was_given_back_in_good_order_has_not_expired() -> None:
    found = data_summary(status({"trained": 64, "expired": 32}), is_interrupted=True)
    assert (found["trajectories_expired"], found["trajectories_given_back"]) == (4, 28)
    assert found["data_fault"] is None


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_nothing_trained_is_a_fault_unless_somebody_stopped_the_run(is_interrupted: bool) -> None:
    first = ("sample s3 quarantined by the learner: prompt tokens differ",)
    found = data_summary(status({"trained": 0, "expired": 32}, first=first), is_interrupted)
    fault = f"nothing was trained: no group came through: {first[0]}. Fix: see quarantine.jsonl"
    assert found["data_fault"] == (None if is_interrupted else f"{fault} and logs/")


def test_the_broker_s_reason_to_end_is_the_fault() -> None:
    found = data_summary(status({"trained": 8}, ended_because="of 8 rows 3 quarantined"), True)
    assert found["data_fault"] == "of 8 rows 3 quarantined"


def test_without_the_broker_s_word_nothing_is_claimed() -> None:
    assert set(data_summary(None, is_interrupted=True).values()) == {None}
