"""Samples, groups, a running broker (or a process of one) and members of it."""

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from broker import protocol as p
from broker.client import BrokerClient
from broker.ledger.entry import Owner, Receipt, Rules, lease_of
from broker.ledger.ledger import Ledger
from broker.net.transport import ZmqListener
from broker.protocol import Role, Verdict
from broker.service.images import DatasetImages
from broker.service.membership import Membership
from broker.service.server import BrokerServer
from broker.service.service import BrokerService
from broker.storage.store import MemoryStore
from common.data_health import DataRows
from common.group import Group, Responses, Trajectory, VersionSpan
from common.group_batch import encode
from common.images import ImageStore
from common.source import SampleSource
from common.types import (
    Box,
    FinishReason,
    GroupAddress,
    GroupLease,
    ImageRef,
    Sample,
    WeightBucket,
    WeightUpdate,
)
from tests.seen import SEEN


def make_sample(number: int) -> Sample:
    return Sample(
        sample_id=f"s{number}",
        problem="<image>which digit?",
        image=ImageRef(sha256=f"{number:064x}", path=f"{number}.png", width=10, height=10),
        box=Box(x1=1, y1=1, x2=3, y2=3),
        crop=None,
    )


def make_source(num_samples: int, *, epochs: int = 1, seed: int = 0) -> SampleSource:
    return SampleSource([make_sample(i) for i in range(num_samples)], epochs=epochs, seed=seed)


def make_rules(
    groups_per_step: int = 2,
    max_staleness: int = 0,
    *,
    n: int = 2,
    lease_s: float = 10.0,
    max_attempts: int = 3,
    max_steps: int | None = None,
    first_rest_s: float = 0.0,
) -> Rules:
    return Rules(
        groups_per_step,
        max_staleness,
        n,
        lease_s,
        max_attempts,
        max_steps,
        first_rest_s=first_rest_s,
    )


def make_group(lease: GroupLease, version: int, *, tokens: int = 3, first: int = 0) -> Group:
    """A group as a server would submit it; trajectory i has `tokens` + i tokens."""
    trajectories = tuple(
        Trajectory(
            index=first + i,
            response_token_ids=np.arange(tokens + i, dtype=np.int32),
            rollout_logprobs=np.full(tokens + i, -0.5, dtype=np.float32),
            version_spans=(VersionSpan(version=version, start=0, end=tokens + i),),
            cache_version=version,
            finish_reason=FinishReason.STOP,
        )
        for i in range(lease.num_trajectories)
    )
    return Group(
        group_id=lease.group_id,
        attempt=lease.attempt,
        sample_id=lease.sample.sample_id,
        view=SEEN,
        prompt_token_ids=np.arange(4, dtype=np.int32),
        num_prompt_tokens=8,
        responses=Responses.of(trajectories),
    )


def me(name: str, incarnation: int = 1) -> dict[str, Any]:
    """The fields that say which life of which member sends a request."""
    return {"member_id": name, "incarnation": incarnation}


def submission(owner: Mapping[str, Any], *groups: Group) -> p.SubmitGroups:
    """The message of a server that hands these in."""
    return p.SubmitGroups(**owner, groups=tuple(map(encode, groups)))


def make_update(version: int, *members: str, attempt: int = 0, history: int = 0) -> WeightUpdate:
    ranks = {member: rank for rank, member in enumerate(members, start=1)}
    bucket = WeightBucket(names=("w",), dtypes=("float32",), shapes=((2, 2),), num_bytes=16)
    group = GroupAddress(
        name=f"push-{attempt}",
        host="127.0.0.1",
        port=1234,
        backend="gloo",
        world_size=1 + len(ranks),
    )
    return WeightUpdate(
        version=version,
        history=history,
        attempt=attempt,
        recipients=ranks,
        source=group,
        buckets=(bucket,),
    )


def lease_all(
    ledger: Ledger,
    owner: Owner,
    count: int = 99,
    version: int | None = None,
    now: float = 0.0,
    request_id: bytes | None = None,
) -> list[GroupLease]:
    """New leases as the server would be told of them."""
    serving = ledger.version if version is None else version
    request_id = request_id or secrets.token_bytes(8)
    entries = ledger.lease(owner, request_id, count, ledger.history, serving, now)
    return [lease_of(entry, ledger.rules) for entry in entries]


def submit_group(ledger: Ledger, owner: Owner, group: Group) -> Verdict:
    return ledger.submit(owner, group.group_id, group.attempt, Receipt.of(group))


def make_service(
    source: SampleSource,
    rules: Rules,
    member_timeout_s: float = 20.0,
    max_frame_bytes: int = 2**20,
    max_held_bytes: int = 2**30,
    versions: dict[str, str] | None = None,
    rows: DataRows | None = None,
    heldout: dict[str, Sample] | None = None,
) -> BrokerService:
    return BrokerService(
        Ledger(source, rules),
        Membership(member_timeout_s),
        MemoryStore(max_held_bytes),
        run_id="test",
        num_samples=len(source.samples),
        max_frame_bytes=max_frame_bytes,
        versions=versions,
        rows=rows,
        heldout=heldout,
    )


@dataclass
class Running:
    """A broker on a loopback socket, and its parts."""

    server: BrokerServer
    service: BrokerService
    stop: asyncio.Event
    serving: asyncio.Task[None]

    @property
    def address(self) -> str:
        return self.server.address

    def let_pass(self, seconds: float) -> None:
        """Move the broker's clock on, as if nothing had been heard for so long."""
        self.server._offset += seconds
        self.server._deadline_moved.set()

    def client(
        self,
        member_id: str,
        *,
        request_timeout_s: float = 10.0,
        tries: int = 3,
        patience_s: float = 600.0,
    ) -> BrokerClient:
        role = next(role for role in Role if member_id.startswith(role.value))
        return BrokerClient(
            self.address,
            member_id,
            role,
            request_timeout_s=request_timeout_s,
            tries=tries,
            patience_s=patience_s,
        )


@contextlib.asynccontextmanager
async def running_broker(
    rules: Rules,
    source: SampleSource,
    *,
    member_timeout_s: float = 20.0,
    images: Path = Path("."),
    max_frame_bytes: int = 2**20,
    address: str = "tcp://127.0.0.1:0",
    drain_s: float = 0.05,
    service: BrokerService | None = None,
) -> AsyncIterator[Running]:
    service = service or make_service(source, rules, member_timeout_s, max_frame_bytes)
    dataset_images = DatasetImages(ImageStore(images), source.samples)
    listener = ZmqListener(address, max_frame_bytes)
    server = BrokerServer(service, dataset_images, listener, max_frame_bytes=max_frame_bytes)
    stop = asyncio.Event()
    async with server, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(stop, drain_s))
        try:
            yield Running(server, service, stop, serving)
        finally:
            stop.set()


ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--learner.groups_per_step", "2", "--rollout.trajectories_per_sample", "2")


def dataset_rows(num_samples: int) -> list[dict[str, Any]]:
    return [
        {
            "sample_id": f"s{number}",
            "problem": "<image>which digit?",
            "image": f"{number}.png",
            "image_sha256": f"{number:064x}",
            "width": 10,
            "height": 10,
            "box": [1, 1, 3, 3],
            "crop": None,
        }
        for number in range(num_samples)
    ]


def write_dataset(folder: Path, num_samples: int) -> Path:
    rows = dataset_rows(num_samples)
    for row in rows:
        Image.new("RGB", (10, 10)).save(folder / str(row["image"]))
    path = folder / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def where(folder: Path) -> tuple[str, ...]:
    return (
        "--broker.address", "tcp://127.0.0.1:0", "--data.train", str(folder / "train.parquet"),
        "--run.folder", str(folder / "run-7"),
    )  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "broker.main", *arguments]


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A broker process and its address."""
    run = folder / "run-7"
    write_dataset(folder, 5)
    started = subprocess.Popen(
        command(*where(folder), *SMALL, *arguments),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stderr is not None
        for line in started.stderr:
            if "listening on" in line:
                break
        announced = json.loads((run / "broker.json").read_text())
        assert announced["run_id"] == "run-7"
        yield started, announced["address"]
    finally:
        started.kill()
        started.communicate()
