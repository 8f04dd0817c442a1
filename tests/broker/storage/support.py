"""A broker's service on its journal, and a disk that is full."""

from pathlib import Path
from typing import Any

from broker import protocol as p
from broker.ledger.entry import Rules
from broker.service.opening import open_durable
from broker.storage.disk import FolderDisk
from common.group import Group
from tests.broker.support import make_group, make_rules, make_source, me, submission

ROLES = {"r": p.Role.ROLLOUT, "l": p.Role.LEARNER}
NUM_SAMPLES = 12


class Bench:
    """A broker on a folder, without a socket. Every reply has been made durable."""

    def __init__(self, folder: Path, rules: Rules | None = None, **options: Any) -> None:
        self.rules = rules or make_rules(2, 1)
        self.folder = folder
        self.options: dict[str, Any] = {"fsync": "never", **options}
        self.now = 0.0
        self.num_asked = 0
        self.open()

    def open(self) -> None:
        self.service, self.store, self.started_at = open_durable(
            FolderDisk(self.folder), make_source(NUM_SAMPLES), self.rules, **self.options
        )
        self.now = self.started_at

    def kill(self) -> None:
        """What was not flushed is gone."""
        self.store._disk.close()
        self.open()

    def ask(self, request: Any, request_id: bytes = b"") -> Any:
        self.num_asked += 1
        self.now += 0.25
        (reply,) = self.service.handle(
            b"peer", request_id or str(self.num_asked).encode(), request, self.now
        )
        self.store.flush()
        return reply.message

    def hello(self, *names: str, incarnation: int = 1) -> None:
        for name in names:
            hello = p.Hello(member_id=name, role=ROLES[name[0]], incarnation=incarnation)
            assert isinstance(self.ask(hello), p.Welcome)

    def lease(self, count: int = 9, version: int = 0, request_id: bytes = b"") -> p.Leases:
        request = p.LeaseRequest(
            **me("r0"), max_groups=count, history=self.ledger.history, serving_version=version,
            wait_s=0,
        )  # fmt: skip
        leases: p.Leases = self.ask(request, request_id)
        return leases

    def submit(self, leases: p.Leases, version: int = 0) -> list[Group]:
        groups = [make_group(granted, version) for granted in leases.leases]
        for group in groups:
            assert self.ask(submission(me("r0"), group)).outcomes == (p.Verdict.ACCEPTED,)
        return groups

    def take(self, step: int) -> p.Batch:
        batch: p.Batch = self.ask(p.TakeBatch(**me("l0"), step=step, wait_s=0))
        return batch

    def train(self, step: int) -> None:
        """One whole step from the leases to the servers' new weights."""
        self.submit(self.lease(version=step - 1), version=step - 1)
        assert self.take(step).groups
        assert self.ask(p.AckBatch(**me("l0"), step=step, batch_id=step)).is_complete
        self.ask(p.AckWeights(**me("r0"), history=0, version=step))

    @property
    def ledger(self) -> Any:
        return self.service.ledger


def busy(folder: Path, **options: Any) -> Bench:
    """A run in the middle of its second step."""
    bench = Bench(folder, **options)
    bench.hello("l0", "r0")
    bench.ask(p.AckWeights(**me("r0"), history=0, version=0))
    bench.train(1)
    leases = bench.lease(count=3, version=1)
    bench.submit(p.Leases(leases=leases.leases[:2]), version=1)
    bench.take(2)
    return bench


class FullDisk(FolderDisk):
    """Takes `room` bytes more, half of the last write included."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.room = 10**9
        self.fails_to_sync = False

    def append(self, name: str, content: bytes) -> None:
        if len(content) > self.room:
            super().append(name, content[: self.room])
            self.room = 0
            raise OSError(28, "No space left on device")
        self.room -= len(content)
        super().append(name, content)

    def sync(self, name: str) -> None:
        if self.fails_to_sync:
            raise OSError(5, "Input/output error")
        super().sync(name)
