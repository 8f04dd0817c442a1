"""A realistic moment of a run, as the views get it."""

from broker.protocol import DataStatus, Role
from deploy.showing.live.facts import Facts, FolderFacts, UnusableSamples
from deploy.supervision.process_table import End, Entry
from tests.deploy.showing.support import GAUGES, status
from tests.deploy.statuses import member

REASON = "sample s-17 quarantined by the learner: its picture has no pixels"
SENTENCE = "Rollout limits it: the learner waited 41 % of the last 20 steps for batches."


def rows(count: int = 40) -> tuple[dict[str, object], ...]:
    return tuple(
        {
            "step": step, "time_s": 3.0 * step, "learner/loss_nats": 0.05 - 0.001 * step,
            "learner/step_s": 2.0, "learner/wait_batch_s": 0.5, "time/backward_s": 1.25,
            "time/vision_s": 0.125, "drift/mean_nats": 0.01, "drift/p99_nats": 0.09,
            "staleness/mean_steps": float(step > 1), "staleness/max_steps": float(step > 1),
            "learner/grad_norm": 1.5, "learner/tokens_per_s": 812.0,
        }
        for step in range(1, count + 1)
    )  # fmt: skip


def moment(servers: int = 2, **changes: object) -> Facts:
    """A run at step 40 of 60 with so many rollout servers, some of its samples unusable."""
    seen = status({**GAUGES, "accuracy_version": 30.0}, version=40)
    members = [
        member(
            f"rollout-{n}", Role.ROLLOUT, 39 + n % 2, 0.4,
            tokens_per_s=900.0 + n, idle_share=0.125, groups_in_flight=3.0,
        )
        for n in range(servers)
    ]  # fmt: skip
    learner = next(m for m in seen.members if m.role is Role.LEARNER)
    counts = {
        f"{unit}_{place}": amount * size
        for unit, size in (("samples", 1), ("trajectories", 4), ("tokens", 123_457))
        for place, amount in (
            ("issued", 623), ("in_flight", 34), ("waiting", 6), ("trained", 576),
            ("expired", 5), ("quarantined", 2),
        )
    }  # fmt: skip
    data = DataStatus(rows=700, refused_rows=1, quarantined_samples=2, first=(REASON,))
    seen = seen.model_copy(
        update={
            "members": (learner, *members), "counts": counts, "data": data,
            "expired_by_reason": {"lease_lapsed": 16, "rewound": 4},
            "trained_lengths": {"4": 12, "1024": 2292},
        }
    )  # fmt: skip
    entries = [
        Entry(name=name, state="up", since=0.0, node="machine-7", pid=1)
        for name in ("broker", "learner-0")
    ]
    killed = End(time=9.0, why="was killed by SIGKILL")
    entries.append(
        Entry(name="rollout-0", state="restarting", since=9.0, restarts=1, ends=(killed,))
    )
    folder = FolderFacts(
        rows(),
        ({"step": 30, "evaluation/full_accuracy": 0.61, "evaluation/crop_accuracy": 0.95},),
        SENTENCE,
        UnusableSamples(2, (REASON, "s-18 (rollout): HTTP 500")),
        tuple(entries),
        (("rollout-0", "12:00:01 WARNING rollout-0 slow"), ("broker", "12:00:02 ERROR broker bad")),
    )
    facts: dict[str, object] = {
        "waits": {"batch 41": "waiting for the batch of step 41, since 9 s"}
    }
    return Facts(**{"status": seen, "elapsed_s": 125.0, "folder": folder, **facts, **changes})  # type: ignore[arg-type]
