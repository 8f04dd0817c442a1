"""Push weights to every live rollout server, in a thread beside the next step.

    main:    snapshot k | forward, backward k+1 ......... | wait for push k | snapshot k+1
    thread:  members > group (a new one when they changed) > announce > one broadcast a bucket

A push that fails is announced again, in a new group, without those that are gone. Every wait has an
end. A server that has not acknowledged a push (it came late, restarted or failed inside) is found
by `mend`, which pushes again.
"""

import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from broker.client import BrokerClient
from broker.protocol import Role
from common.config import WeightsSection
from common.errors import WeightSyncError
from common.types import PushGroup as GroupRecord
from common.types import WeightUpdate
from learner.buckets import Snapshot, fill, plan_buckets
from learner.feed import Interrupted
from learner.push_group import PushGroup

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
_WATCH_S = 10.0  # how long the broker may hold a question for members
_CALL_S = 700.0  # the broker's client gives up before, unless the broker's disk is full for long


class Line(Protocol):
    """How requests reach the broker (`learner.feed.Feed`)."""

    def call(
        self, request: Callable[[BrokerClient], Awaitable[Answer]], timeout_s: float
    ) -> Answer: ...

    def cancel_calls(self) -> None: ...


class Publisher:
    """Use it as a context manager. Its methods belong to the main thread.

    Args:
        history: that the versions belong to, as the broker told when this learner resumed.
        weights: what is sent, by name: live views of the student's tensors.
        num_servers: how many rollout servers the first push waits for.
        start_timeout_s: seconds to wait for servers.
        heartbeat_s: how often, at least, a live server is heard of.
    """

    def __init__(
        self,
        config: WeightsSection,
        line: Line,
        history: int,
        weights: Mapping[str, Tensor],
        num_servers: int,
        start_timeout_s: float,
        heartbeat_s: float,
    ) -> None:
        self._config = config
        self._line = line
        self._history = history
        self._weights = weights
        self._num_servers = num_servers
        self._start_timeout_s = start_timeout_s
        self._silence_s = 1.5 * heartbeat_s
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
        self._device = next(iter(weights.values())).device
        buckets = plan_buckets(weights, self._dtype, config.bucket_mib)
        contents = [
            torch.empty(b.num_bytes, dtype=torch.uint8, device=self._device) for b in buckets
        ]
        self._snapshot = Snapshot(buckets, tuple(contents))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._push: Future[None] | None = None
        self._closing = threading.Event()
        self._group: PushGroup | None = None
        self._ranks: dict[str, int] = {}
        # A server may still be in a group of the learner before: the same name would mislead it.
        self._group_prefix = f"push-{secrets.token_hex(4)}"
        self._groups_made = 0
        self._version, self._attempt = -1, -1  # of the last announcement
        self._pushed_version, self._pushed_at = -1, 0.0
        self._has_served: set[str] = set()
        self._last_failed: set[str] = set()  # who took part in the last push that failed
        self._suspects: set[str] = set()  # those of them that have been silent since
        self.publish_s: float | None = None  # of the last push that was completed

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._line.cancel_calls()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._close_group()

    def push(self, version: int) -> None:
        """Snapshot the weights as they are and start to send them as `version`."""
        self.wait()
        fill(self._snapshot.contents, self._snapshot.buckets, self._weights, self._dtype)
        self._push = self._executor.submit(self._push_until_done, version)

    def wait(self) -> None:
        """Wait for the push under way.

        Raises:
            WeightSyncError: it failed as often as is allowed; names the servers.
        """
        push, self._push = self._push, None
        if push is not None:
            push.result()

    def check(self) -> None:
        """As `wait`, but at once: raises when the push under way has failed already."""
        if self._push is not None and self._push.done():
            self.wait()

    def mend(self) -> None:
        """Push the last weights again if a live server is without them. Call it while waiting."""
        self.check()
        if self._push is None and self._pushed_version >= 0 and self._is_someone_without_weights():
            self._push = self._executor.submit(self._push_until_done, self._pushed_version)

    # ---- the publisher's thread, or the main one while that has nothing to do --------------------
    def _is_someone_without_weights(self) -> bool:
        members = self._members(0, 0.0)
        behind = {name for name, served in members.items() if served < self._pushed_version}
        newcomers = {
            name
            for name in behind
            if name not in self._ranks or (members[name] < 0 and name in self._has_served)
        }
        is_overdue = time.monotonic() - self._pushed_at > self._config.timeout_s
        if behind and (newcomers or is_overdue):
            logger.warning(
                "%s without version %d: pushing again",
                ", ".join(sorted(behind)),
                self._pushed_version,
            )
            return True
        return False

    def _push_until_done(self, version: int) -> None:
        started = time.monotonic()
        for attempt in range(self._config.max_attempts):
            if attempt == 0:
                is_first = self._pushed_version < 0
                members = self._wait_for_members(self._num_servers if is_first else 1)
            else:
                members = self._wait_for_signs_of_life()
            try:
                self._push_once(version, members, is_retry=attempt > 0)
            except RuntimeError as error:  # torch.distributed's errors
                self._last_failed = set(self._ranks)
                self._close_group()
                if self._closing.is_set():
                    raise Interrupted("the push was cut short") from error
                logger.warning(
                    "push of version %d to %s failed (try %d of %d): %s",
                    version, ", ".join(members), attempt + 1, self._config.max_attempts,
                    str(error).splitlines()[0],
                )  # fmt: skip
                continue
            self._pushed_version, self._pushed_at = version, time.monotonic()
            self.publish_s = self._pushed_at - started
            return
        raise WeightSyncError(
            f"version {version} could not be pushed to {', '.join(members)} in "
            f"{self._config.max_attempts} tries. Fix: see their logs; weights.timeout_s is "
            f"{self._config.timeout_s:g} s a phase"
        )

    def _push_once(self, version: int, members: Mapping[str, int], is_retry: bool) -> None:
        self._has_served |= {name for name, served in members.items() if served >= 0}
        needs_group = is_retry or not self._can_reuse_group(members)
        if needs_group:
            self._make_group(members)
        group = self._group
        assert group is not None
        self._announce(version, group)
        if needs_group:
            group.join()
        for content in self._snapshot.contents:
            group.broadcast(content)

    def _can_reuse_group(self, members: Mapping[str, int]) -> bool:
        """The same servers, every one known to have come through the last push."""
        is_current = all(served == self._pushed_version for served in members.values())
        return self._group is not None and members.keys() == self._ranks.keys() and is_current

    def _make_group(self, members: Mapping[str, int]) -> None:
        self._close_group()
        self._groups_made += 1
        self._ranks = {name: rank for rank, name in enumerate(sorted(members), start=1)}
        self._group = PushGroup(
            f"{self._group_prefix}-{self._groups_made}",
            self._config.host,
            world_size=1 + len(members),
            backend=self._backend,
            timeout_s=self._config.timeout_s,
        )

    def _announce(self, version: int, group: PushGroup) -> None:
        self._attempt = self._attempt + 1 if version == self._version else 0
        self._version = version
        update = WeightUpdate(
            version=version,
            history=self._history,
            attempt=self._attempt,
            group=GroupRecord(
                name=group.name,
                host=self._config.host,
                port=group.port,
                backend=self._backend,
                ranks=self._ranks,
            ),
            buckets=self._snapshot.buckets,
            pause_mode=self._config.pause_mode,
        )
        self._line.call(lambda broker: broker.announce(update), _CALL_S)

    def _wait_for_members(self, at_least: int) -> dict[str, int]:
        """The live rollout servers, once there are `at_least`, or any when time is up."""
        deadline = time.monotonic() + self._start_timeout_s
        while not self._closing.is_set():
            left_s = deadline - time.monotonic()
            members = self._members(at_least, max(0.0, min(_WATCH_S, left_s)))
            if len(members) >= at_least:
                return members
            if left_s <= 0 and members:
                logger.warning("%d of %d rollout servers are there", len(members), at_least)
                return members
            if left_s <= 0:
                raise WeightSyncError(
                    f"no rollout server came within {self._start_timeout_s:.0f} s. "
                    "Fix: see the rollout logs; rollout.start_timeout_s sets the limit"
                )
        raise Interrupted("the push was cut short")

    def _wait_for_signs_of_life(self) -> dict[str, int]:
        """The servers heard of since a push failed: the broker may still list a dead one."""
        deadline = time.monotonic() + self._start_timeout_s
        while not self._closing.wait(self._silence_s):
            alive = self._heard_of_lately()
            if alive:
                self._suspects = self._last_failed - alive.keys()
                return alive
            if time.monotonic() > deadline:
                raise WeightSyncError(
                    f"version {self._version}: every rollout server failed in its push and none "
                    f"came back within {self._start_timeout_s:.0f} s. Fix: see the rollout logs"
                )
        raise Interrupted("the push was cut short")

    def _members(self, at_least: int, wait_s: float) -> dict[str, int]:
        reply = self._line.call(
            lambda broker: broker.watch_members(at_least, wait_s), wait_s + _CALL_S
        )
        members = dict(reply.acknowledged)
        if self._suspects & members.keys():
            self._suspects -= self._heard_of_lately().keys()
        return {name: served for name, served in members.items() if name not in self._suspects}

    def _heard_of_lately(self) -> dict[str, int]:
        """Rollout servers that gave a sign of life within `_silence_s`."""
        status = self._line.call(lambda broker: broker.status(), _CALL_S)
        return {
            member.member_id: member.acknowledged_version
            for member in status.members
            if member.role is Role.ROLLOUT and member.silent_s <= self._silence_s
        }

    @property
    def _backend(self) -> str:
        if self._config.backend != "auto":
            return self._config.backend
        return "nccl" if self._device.type == "cuda" else "gloo"

    def _close_group(self) -> None:
        group, self._group, self._ranks = self._group, None, {}
        if group is not None:
            group.close()
