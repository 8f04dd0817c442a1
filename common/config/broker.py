"""The section of the broker."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.section import Section


class BrokerSection(Section):
    address: str = Field(
        "tcp://127.0.0.1:5570", description="Where the broker listens; port 0 takes a free one."
    )
    keys: Path | None = Field(
        None,
        description="Folder of CURVE keys (python -m broker.keys FOLDER); needed off loopback.",
    )
    public_host: str | None = Field(
        None,
        min_length=1,
        description="Host by which others reach the broker; none: the one it listens on, or this "
        "machine's primary address if it listens on 0.0.0.0.",
    )
    max_staleness: int = Field(
        0,
        ge=0,
        le=64,
        description="Steps by which a trajectory may lag the learner; 0 is synchronous.",
    )
    lease_s: float = Field(300.0, gt=0, description="Seconds until an unsubmitted lease lapses.")
    max_leases: int = Field(256, gt=0, description="Groups that one rollout server may hold.")
    member_timeout_s: float = Field(
        20.0, gt=0, description="Seconds of silence after which a process counts as gone."
    )
    max_attempts: int = Field(
        3,
        gt=0,
        description="Failed attempts at one sample before it is quarantined. Of an engine's death "
        "the last one counts for a sample only if nothing else was under way.",
    )
    max_frame_mib: int = Field(64, gt=0, le=1024, description="MiB; larger messages are refused.")
    max_held_mib: int = Field(
        4096,
        gt=0,
        description="MiB of trajectories that a broker without a run folder keeps in memory.",
    )
    fsync: Literal["always", "interval", "never"] = Field(
        "interval",
        description="When the journal must reach the disk: always: before each answer; interval: "
        "every fsync_interval_s; never: when the system likes. All survive a killed broker.",
    )
    fsync_interval_s: float = Field(1.0, gt=0, description="Seconds between fsyncs (interval).")
