"""One size with one number of servers: everything is started, measured in turn, and ended."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from common.config import RunConfig, WeightsSection
from common.config_cli import build
from learner.feed import Feed
from learner.push.buckets import Snapshot
from learner.push.publisher import Publisher
from tests.bench.broker_process import running_broker
from tests.bench.piped import PipedChild, children
from tests.bench.pushing.engine import serve_engine
from tests.bench.pushing.raw import RawBroadcast, free_port, leave, receive_raw
from tests.bench.pushing.receiver import PushReport, receive_pushes
from tests.bench.pushing.weights import make_weights

_TIMEOUT_S = 120.0  # of any one wait
_WARM_UPS = 2  # the first push forms the group; its buffers are new to the allocators
_MATRIX = 256
_VERSION = 0  # the broker lets version 1 be announced only after a step; a push is a push


@dataclass(frozen=True)
class Case:
    mib: int
    servers: int
    bucket_mib: int
    repeats: int


@dataclass
class Pushed:
    """One push."""

    seconds: float  # from Publisher.push() to the last server's acknowledgement
    publish_s: float  # until the last bucket was sent, as the publisher says
    gather_s: float  # copying the weights into the snapshot, meanwhile
    stall_s: float  # that the main thread waited
    reports: list[PushReport]  # one a server
    started_at: float

    @property
    def pause_s(self) -> float:
        return max(report.pause_s for report in self.reports)

    def phases_s(self) -> dict[str, float]:
        """Where the time went, mean over the servers; "call" comes before a server knows of it."""
        parts = [
            {
                "call": report.announced_at - self.started_at,
                **report.phases_s,
                "acknowledge": report.acknowledged_at - report.resumed_at,
            }
            for report in self.reports
        ]
        return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


@dataclass
class Measured:
    case: Case
    num_bytes: int
    num_buckets: int
    alone: list[Pushed] = field(default_factory=list)
    raw_s: list[float] = field(default_factory=list)
    beside_training: list[Pushed] = field(default_factory=list)


class TimedSnapshot(Snapshot):
    gather_s = 0.0

    def gather(self) -> None:
        started = time.monotonic()
        super().gather()
        self.gather_s = time.monotonic() - started


class Learner:
    """The real publisher in this process, and weights that something changes."""

    def __init__(
        self, publisher: Publisher, snapshot: TimedSnapshot, weights: dict[str, Tensor],
        receivers: Sequence[PipedChild],
    ) -> None:  # fmt: skip
        self._publisher = publisher
        self._snapshot = snapshot
        self._weights = weights
        self._receivers = receivers

    def push(self, training_s: float = 0.0) -> Pushed:
        """One push; trains beside it for so long and then changes the weights."""
        before_s = self._publisher.stall_s
        started = time.monotonic()
        self._publisher.push(_VERSION)
        train_for(training_s)
        self._publisher.wait_for_snapshot()
        self._change_weights()
        stalled_s = self._publisher.stall_s - before_s + self._wait_as_the_next_push_would()
        reports = [child.answer(_TIMEOUT_S) for child in self._receivers]
        assert self._publisher.publish_s is not None
        return Pushed(
            seconds=max(report.acknowledged_at for report in reports) - started,
            publish_s=self._publisher.publish_s,
            gather_s=self._snapshot.gather_s,
            stall_s=stalled_s,
            reports=reports,
            started_at=started,
        )

    def _wait_as_the_next_push_would(self) -> float:
        """Seconds: one push begins when the one before is through."""
        started = time.monotonic()
        self._publisher.wait()
        return time.monotonic() - started

    def _change_weights(self) -> None:
        for tensor in self._weights.values():
            tensor.view(-1)[0] += 1.0


def train_for(seconds: float) -> None:
    """Keeps a core as busy as a forward and backward pass would."""
    ends_at = time.monotonic() + seconds
    matrix = torch.full((_MATRIX, _MATRIX), 1 / _MATRIX)
    while time.monotonic() < ends_at:
        matrix = matrix @ matrix


def measure(case: Case) -> Measured:
    torch.set_num_threads(1)
    weights = make_weights(case.mib)
    snapshot = TimedSnapshot(weights, torch.float32, case.bucket_mib)
    sizes = tuple(bucket.num_bytes for bucket in snapshot.buckets)
    measured = Measured(case, sum(sizes), len(sizes))
    # In this order: to leave the default process group is to leave every other one as well.
    with raw_broadcast(case, sizes) as raw, running_learner(case, weights, snapshot) as learner:
        buckets = list(snapshot.ready())
        beside = learner.push()
        for number in range(-1, case.repeats):
            pushed, raw_s = learner.push(), raw.seconds(buckets)
            beside = learner.push(training_s=beside.seconds)
            if number >= 0:
                measured.alone.append(pushed)
                measured.raw_s.append(raw_s)
                measured.beside_training.append(beside)
    return measured


@contextlib.contextmanager
def running_learner(
    case: Case, weights: dict[str, Tensor], snapshot: TimedSnapshot
) -> Iterator[Learner]:
    """Broker, engines, rollout servers, and a learner whose first pushes are through."""
    config = _config()
    engine_arguments = [(case.mib, _TIMEOUT_S)] * case.servers
    with running_broker(config) as address, children(serve_engine, engine_arguments) as engines:
        urls = [engine.answer(_TIMEOUT_S) for engine in engines]
        arguments = [
            (address, url, f"rollout-{number}", _TIMEOUT_S) for number, url in enumerate(urls)
        ]
        with children(receive_pushes, arguments) as receivers:
            for receiver in receivers:
                receiver.answer(_TIMEOUT_S)
            feed = Feed(config, address, "learner-0", _NOTHING_TO_PREPARE)
            with (
                feed,
                Publisher(
                    config.weights, feed, feed.history, snapshot, case.servers, _TIMEOUT_S,
                    heartbeat_s=2.0,
                ) as publisher,
            ):  # fmt: skip
                learner = Learner(publisher, snapshot, weights, receivers)
                for _ in range(_WARM_UPS):
                    learner.push()
                yield learner


@contextlib.contextmanager
def raw_broadcast(case: Case, sizes: tuple[int, ...]) -> Iterator[RawBroadcast]:
    port, world_size = free_port(), 1 + case.servers
    arguments = [(port, rank, world_size, sizes, _TIMEOUT_S) for rank in range(1, world_size)]
    with contextlib.ExitStack() as stack:
        stack.callback(leave)  # after the receivers' end, which would miss this process
        receivers = stack.enter_context(children(receive_raw, arguments))
        yield RawBroadcast(port, receivers, _TIMEOUT_S)


def _config() -> RunConfig:
    weights = WeightsSection(
        backend="gloo", dtype="float32", timeout_s=_TIMEOUT_S, verify_first=0, verify_every=0,
        max_attempts=1,
    )  # fmt: skip
    return build({"broker": {"address": "tcp://127.0.0.1:0"}, "weights": weights.model_dump()})


_NOTHING_TO_PREPARE: Any = None  # no batch ever comes
