"""The end of a run, declared to the broker, and its result in RUN/summary.json."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.protocol import Status
from common.config import RunConfig
from common.errors import BrokerUnavailable, ProtocolError
from common.files import replace_json
from common.full_disk import when_there_is_room
from learner.data_summary import data_summary
from learner.feed import Feed
from learner.measuring.evaluation import Accuracy, gap_closed
from learner.saving import LAST_CALLS_S

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Accounts:
    """The broker's last status of the run."""

    status: Status
    told_at: float  # on time.monotonic's clock

    @property
    def seconds(self) -> float:
        """How long the run has lasted by now, on the broker's clock, which outlives learners."""
        return self.status.seconds + time.monotonic() - self.told_at


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    version: int  # version of the last weights
    skipped_steps: int
    before: Accuracy | None  # None when not measured
    after: Accuracy | None  # None when not measured
    is_interrupted: bool


def declare_end(feed: Feed, step: int, is_interrupted: bool) -> Accounts | None:
    """Declare the end of the run to the broker, and ask for its accounts.

    Returns:
        None when the run was interrupted and the broker answers no longer.

    Raises:
        BrokerUnavailable, ProtocolError: it does not answer at the end of a whole run.
    """
    reason = f"{'interrupted' if is_interrupted else 'done'} at step {step}"
    timeout_s = LAST_CALLS_S if is_interrupted else feed.request_timeout_s
    try:
        status = feed.call(lambda broker: broker.status(), timeout_s)
        told_at = time.monotonic()
        feed.call(lambda broker: broker.finish(reason), timeout_s)
    except (BrokerUnavailable, ProtocolError) as error:
        if not is_interrupted:
            raise
        logger.warning("the broker did not hear the end: %s", error)  # it may have gone first
        return None
    return Accounts(status, told_at)


def write_summary(
    folder: Path, summary: dict[str, Any], is_over: Callable[[], bool] = lambda: False
) -> None:
    """Write `folder`/summary.json and log the same.

    Args:
        is_over: asked while a full disk is waited for; True gives up, with DiskFull.
    """
    path = folder / "summary.json"
    when_there_is_room(lambda: replace_json(path, summary), path, is_over)
    logger.info("done: %s", ", ".join(f"{k} {_short(v)}" for k, v in summary.items()))


def summary_of(
    config: RunConfig, outcome: Outcome, accounts: Accounts | None, seconds: float
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        seconds: how long the run has lasted by the learner's clock, in case there are no accounts.
    """
    before, after = outcome.before, outcome.after
    status = None if accounts is None else accounts.status
    data = data_summary(status, outcome.is_interrupted)
    return {
        "full_accuracy_before": before and before.full,
        "full_accuracy_after": after and after.full,
        "crop_accuracy_before": before and before.crop,
        "crop_accuracy_after": after and after.crop,
        "full_cut_share_before": before and before.full_cut,
        "full_cut_share_after": after and after.full_cut,
        "crop_cut_share_before": before and before.crop_cut,
        "crop_cut_share_after": after and after.crop_cut,
        "version_before": before and before.version,
        "version_after": after and after.version,
        "gap_closed": gap_closed(before, after) if before and after else None,
        "steps": outcome.version,
        "seconds": round(seconds if accounts is None else accounts.seconds, 3),
        "max_staleness_seen": status.max_staleness_seen if status else None,
        **data,
        "skipped_steps": outcome.skipped_steps,
        "seed": config.run.seed,
        "view": config.teacher.view,
        "max_staleness": config.broker.max_staleness,
        "heldout_samples": before.samples if before else 0,
        "interrupted": outcome.is_interrupted and data["data_fault"] is None,
    }


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
