"""A crowd of rollout servers and a learner around the broker's service: no socket, no engine.

Every server holds a lease request and a watch on the weights, as real ones do, submits what it
leases and acknowledges every version; heartbeats come as often as they do in a run. Requests reach
the service as records; the store is the durable one, flushed as the server flushes it. Only the CPU
time of the service and of the store is counted.
"""

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from broker import protocol as p
from broker.service.opening import open_durable
from broker.service.service import BrokerService
from broker.storage.disk import FolderDisk
from common.group_batch import encode
from tests.broker.support import make_group, make_rules, make_source, make_update

_NUM_SAMPLES = 1000
_LEARNER = "learner-0"
_LEASES_A_REQUEST = 2
_WAIT_S, _HEARTBEAT_S = 30.0, 5.0
_MAX_TOGETHER = 64  # requests a flush, as in broker.service.server
_STEPS_A_WINDOW = 10  # from commit to commit, so that every window holds one
_STEP_S = 5.0  # of simulated time, roughly


class Cost(NamedTuple):
    """What the window of steps costs that begins once `groups` groups are trained."""

    groups: int
    cpu_us_a_group: float
    memory_bytes: int  # resident, at its end


@dataclass(frozen=True)
class CrowdResult:
    costs: list[Cost]
    peak_bytes: int  # of the process, above what it had with all members and before any group

    @property
    def cost_growth(self) -> float:
        return self.costs[-1].cpu_us_a_group / self.costs[0].cpu_us_a_group


def measure_crowd(folder: Path, num_servers: int, num_groups: int) -> CrowdResult:
    """Cost a group after 1 %, 10 % and 100 % of `num_groups`."""
    groups_per_step = max(1, num_servers // 4)
    marks = [max(1, round(num_groups * share / groups_per_step)) for share in (0.01, 0.1, 1)]
    crowd = Crowd(folder, num_servers, groups_per_step, marks[-1] + _STEPS_A_WINDOW)
    before = _memory("VmRSS")
    costs: list[Cost] = []
    for mark in marks:
        crowd.run_until(max(mark, crowd.step))
        first, cpu_s = crowd.step, crowd.cpu_s
        crowd.run_until(first + _STEPS_A_WINDOW)
        num_measured = (crowd.step - first) * groups_per_step
        cost_us = (crowd.cpu_s - cpu_s) / num_measured * 1e6
        costs.append(Cost(first * groups_per_step, cost_us, _memory("VmRSS")))
    return CrowdResult(costs, _memory("VmHWM") - before)


class Crowd:
    def __init__(
        self, folder: Path, num_servers: int, groups_per_step: int, num_steps: int
    ) -> None:
        self.step = 0  # trained
        self.cpu_s = 0.0  # of the service and the store
        self._groups_per_step = groups_per_step
        self._names = [f"rollout-{number}" for number in range(num_servers)]
        self._versions = dict.fromkeys(self._names, -1)
        self._inbox: deque[tuple[str, BaseModel]] = deque()
        self._num_requests = 0
        self._now = 0.0
        self._next_heartbeat = _HEARTBEAT_S
        self._tick_s = _STEP_S / (3 * num_servers)
        self._service, self._store = _open(folder, groups_per_step, num_steps)
        for name in (*self._names, _LEARNER):
            self._post(name, p.Hello, role=name.partition("-")[0])
        self._drain()
        for name in self._names:
            self._post(name, p.WatchWeights, seen_serial=0, wait_s=_WAIT_S)
        self._drain()

    def run_until(self, step: int) -> None:
        """Until so many steps are trained."""
        if self.step == 0 and not self._inbox:
            self._announce()
            self._take()
        while self.step < step:
            self._serve_some()

    # ---- the members -----------------------------------------------------------------------------
    def _post(self, name: str, kind: type[BaseModel], **fields: Any) -> None:
        self._inbox.append((name, kind(member_id=name, incarnation=1, **fields)))

    def _ask_for_leases(self, name: str) -> None:
        self._post(
            name,
            p.LeaseRequest,
            max_groups=_LEASES_A_REQUEST,
            history=0,
            serving_version=self._versions[name],
            wait_s=_WAIT_S,
        )

    def _take(self) -> None:
        self._post(_LEARNER, p.TakeBatch, step=self.step + 1, wait_s=_WAIT_S)

    def _announce(self) -> None:
        self._post(_LEARNER, p.AnnounceWeights, update=make_update(self.step, *self._names))

    def _on_reply(self, name: str, reply: BaseModel) -> None:
        match reply:
            case p.Leases():
                for lease in reply.leases:
                    group = make_group(lease, self._versions[name])
                    self._post(name, p.SubmitGroups, groups=(encode(group),))
                self._ask_for_leases(name)
            case p.Announcement():
                if reply.update is not None:
                    is_first, version = self._versions[name] < 0, reply.update.version
                    self._versions[name] = version
                    self._post(name, p.AckWeights, history=0, version=version)
                    if is_first:
                        self._ask_for_leases(name)
                self._post(name, p.WatchWeights, seen_serial=reply.serial, wait_s=_WAIT_S)
            case p.Batch(num_groups=0):
                self._take()
            case p.Batch():
                self._post(_LEARNER, p.AckBatch, step=reply.step, batch_id=reply.batch_id)
            case p.Acknowledged():
                self.step = reply.step
                if self.step % _STEPS_A_WINDOW == 0:
                    self._post(_LEARNER, p.CommitStep, step=self.step, oldest=self.step)
                self._announce()
                self._take()
            case p.Refused():
                raise AssertionError(f"{name}: {reply}")

    # ---- the broker ------------------------------------------------------------------------------
    def _drain(self) -> None:
        while self._inbox:
            self._serve_some()

    def _serve_some(self) -> None:
        """Serve as many requests as the server handles before one flush, and take the replies."""
        if self._now >= self._next_heartbeat:
            self._next_heartbeat += _HEARTBEAT_S
            for name in (*self._names, _LEARNER):
                self._post(name, p.Heartbeat)
        assert self._inbox, "nobody has anything to ask"
        taken = [self._inbox.popleft() for _ in range(min(_MAX_TOGETHER, len(self._inbox)))]
        replies = []
        started = time.process_time()
        for name, request in taken:
            self._num_requests += 1
            self._now += self._tick_s
            request_id = self._num_requests.to_bytes(8)
            replies += self._service.handle(name.encode(), request_id, request, self._now)
        if self._store.is_dirty:
            self._store.flush()
        self.cpu_s += time.process_time() - started
        for reply in replies:
            self._on_reply(reply.peer.decode(), reply.message)


def _open(folder: Path, groups_per_step: int, num_steps: int) -> tuple[BrokerService, Any]:
    num_groups = groups_per_step * (num_steps + 10)
    source = make_source(_NUM_SAMPLES, epochs=num_groups // _NUM_SAMPLES + 1)
    rules = make_rules(groups_per_step, max_staleness=3, lease_s=300)
    service, store, _ = open_durable(FolderDisk(folder), source, rules, fsync="interval")
    return service, store


def _memory(field: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
