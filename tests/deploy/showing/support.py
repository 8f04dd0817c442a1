"""A run's summary and the broker's status, as they are shown."""

import io

from rich.console import Console
from rich.panel import Panel

from broker.protocol import Role, Status
from deploy.showing.live.facts import Facts
from deploy.showing.live.page import Keys, picture
from tests.deploy.statuses import member

SUMMARY = {
    "full_accuracy_before": 0.45,
    "full_accuracy_after": 0.75,
    "crop_accuracy_before": 0.95,
    "crop_accuracy_after": 0.951,
    "gap_closed": 0.6,
    "steps": 30,
    "seconds": 91.4,
    "max_staleness_seen": 1,
    "max_staleness": 1,
    "trajectories_trained": 5760,
    "trajectories_expired": 0,
    "interrupted": False,
}


GAUGES = {
    "phase": 2.0,
    "step": 12.0,
    "loss_nats": 0.0421,
    "grad_norm": 1.5,
    "lr": 3e-4,
    "full_accuracy": 0.61,
    "full_accuracy_before": 0.45,
    "crop_accuracy": 0.95,
    "staleness_max": 1.0,
    "tokens_per_s": 812.0,
    "idle_share": 0.2,
    "eta_s": 95.0,
}


def status(gauges: dict[str, float] | None = None, version: int = 12) -> Status:
    members = [
        member("rollout-0", Role.ROLLOUT, 11, 0.4, tokens_per_s=900.0, idle_share=0.1),
        member("rollout-1", Role.ROLLOUT, -1, 0.4),
        member("observer-9", Role.OBSERVER, -1, 0.4),
    ]
    if gauges is not None:
        members.append(member("learner-0", Role.LEARNER, -1, 0.4, **gauges))
    return Status(
        run_id="quickstart-1",
        version=version,
        history=0,
        committed=0,
        total_steps=60,
        finished=False,
        counts={"samples_trained": 576, "samples_in_flight": 40, "samples_expired": 2},
        expired_by_reason={"lease_lapsed": 8},
        trained_lengths={},
        expired_lengths={},
        max_staleness_seen=1,
        slots_used=90,
        slots=96,
        storage={},
        members=tuple(members),
    )


def drawn(state: Status | None, waits: dict[str, str] | None = None, width: int = 100) -> str:
    """The overview as the launcher shows it."""
    keys = Keys(ending="Ctrl-C drains and ends")
    return drawn_picture(picture(Facts(state, 125.0, waits or {}), keys, width), width)


def drawn_picture(shown: Panel, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined]
