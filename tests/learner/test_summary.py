"""What summary.json says, and what the broker hears, at the end of a run."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from common.errors import BrokerUnavailable
from learner.measuring.evaluation import Accuracy
from learner.summary import Outcome, declare_end, summary_of, write_summary


class Feed:
    """A line to a broker that is gone."""

    request_timeout_s = 700.0

    def call(self, request: Any, timeout_s: float) -> Any:
        raise BrokerUnavailable(f"no answer within {timeout_s:g} s")


def test_an_interrupted_run_ends_without_the_broker_and_a_whole_one_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert declare_end(Feed(), 3, is_interrupted=True) is None  # type: ignore[arg-type]
    assert "no answer within 5 s" in caplog.text
    with pytest.raises(BrokerUnavailable, match="within 700 s"):
        declare_end(Feed(), 3, is_interrupted=False)  # type: ignore[arg-type]


def test_without_accounts_the_learner_s_clock_and_null_for_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    before, after = Accuracy(0.5, 0.9, 12), Accuracy(0.7, 0.9, 12, version=3)
    outcome = Outcome(3, 1, before, after, is_interrupted=True)
    write_summary(tmp_path, summary_of(RunConfig(), outcome, None, seconds=2.5))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["gap_closed"] == pytest.approx(0.5) and summary["version_after"] == 3
    assert (summary["steps"], summary["skipped_steps"], summary["seconds"]) == (3, 1, 2.5)
    assert summary["interrupted"] is True and summary["heldout_samples"] == 12
    for key in ("max_staleness_seen", "trajectories_trained", "data_fault"):
        assert summary[key] is None
