"""Push weights to every live rollout server, in threads beside the next step.

    main:      | forward, backward k+1 ... | wait for the snapshot | optimizer step | push k+1
    gatherer:  | bucket 0 | bucket 1 | ...
    publisher: | members > group > announce | send 0 | send 1 | ...

The main thread waits only if the optimizer is about to change weights that are not copied yet, or
if the push before is not through. A push that fails is announced again, in a new group, without
those that are gone. Every wait has an end. A server that has not acknowledged a push (it came late,
restarted or failed inside) is found by `push_again_if_behind`, which pushes again.
"""

import concurrent.futures
import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch

from broker.client import BrokerClient
from broker.protocol import Role
from common.config import WeightsSection
from common.errors import VisionOpdError, WeightSyncError
from common.push_groups import PREFIX
from common.served_names import pushed_name
from common.types import PushGroup as GroupRecord
from common.types import WeightChecksums, WeightFiles, WeightProbe, WeightUpdate
from learner.interrupt import Interrupted
from learner.push.buckets import Snapshot
from learner.push.group import PushGroup
from learner.push.weight_files import WeightFolder
from learner.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
_WATCH_S = 10.0  # how long the broker may hold a question for members
_LOOK_S = 0.5  # between looks for an interruption, in the main thread
_PEERS_S = 0.1
_NOTICE_S = 1.5  # a worker gives up a silent engine a second after the learner's own timeout
_CALL_S = 700.0  # the broker's client gives up before, unless the broker's disk is full for long


class Line(Protocol):
    """How requests reach the broker (`learner.feed.Feed`)."""

    def call(
        self, request: Callable[[BrokerClient], Awaitable[Answer]], timeout_s: float
    ) -> Answer: ...

    def cancel_calls(self) -> None: ...


class Checks(Protocol):
    """What servers are to answer after a push (`learner.push.expectations.Expectations`)."""

    def is_due(self, push: int) -> bool: ...

    def probes(self) -> tuple[WeightProbe, ...]: ...

    def checksums(self, snapshot: Snapshot) -> WeightChecksums | None: ...


@dataclass(frozen=True)
class Peer:
    """A live rollout server."""

    served: int  # newest version that it acknowledged; -1: none
    ranks: int  # that it has in a group


Peers = Mapping[str, Peer]


class Publisher:
    """Use it as a context manager. Its methods belong to the main thread.

    Args:
        history: that the versions belong to, as the broker told when this learner resumed.
        snapshot: of the student's weights.
        num_servers: how many rollout servers the first push waits for.
        start_timeout_s: seconds to wait for servers.
        heartbeat_s: how often, at least, a live server is heard of.
        checks: None: pushes are not verified.
        is_interrupted: asked while the main thread waits; True ends the wait.
        files: where weights go instead of through a group; None: through a group.
        verify_timeout_s: how long a server may take over a probe before it is given up by its own
            worker.
        ranks: where there are others they hold parts of the weights. They take part in each probe
            and snapshot, so there is one with every push, and none at other times.
        is_greeting: servers join as `common.push_groups` has it. Those that others have started
            (rollout.engine_urls) may be plain SGLang, which takes nothing before the first bucket.
    """

    def __init__(
        self,
        config: WeightsSection,
        line: Line,
        history: int,
        snapshot: Snapshot,
        num_servers: int,
        start_timeout_s: float,
        heartbeat_s: float,
        checks: Checks | None = None,
        files: WeightFolder | None = None,
        is_interrupted: Callable[[], bool] = lambda: False,
        ranks: Ranks = ALONE,
        verify_timeout_s: float = 0.0,
        is_greeting: bool = True,
    ) -> None:
        self._is_shared = ranks.world_size > 1
        self._verify_timeout_s = verify_timeout_s
        self._config = config
        self._line = line
        self._history = history
        self._snapshot = snapshot
        self._num_servers = num_servers
        self._start_timeout_s = start_timeout_s
        self._silence_s = 1.5 * heartbeat_s
        self._checks = checks
        self._files = files
        self._is_interrupted = is_interrupted
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._gatherer = ThreadPoolExecutor(1, thread_name_prefix="gatherer")
        self._push: Future[None] | None = None
        self._gathering: Future[None] | None = None
        self._closing = threading.Event()
        self._group: PushGroup | None = None
        self._recipients: dict[str, int] = {}
        # A server may still be in a group of the learner before: the same name would mislead it.
        # Nor can anybody guess it who does not hear the announcement: it is the key of all that the
        # group's members tell each other in a store that asks nobody who he is.
        self._group_prefix = f"{PREFIX if is_greeting else 'push-'}{secrets.token_hex(16)}"
        self._groups_made = 0
        self._pushes = 0
        self._version, self._attempt = -1, -1  # of the last announcement
        self._pushed_version, self._pushed_at = -1, 0.0
        self._probes: tuple[WeightProbe, ...] = ()
        self._checksums: WeightChecksums | None = None
        self._is_measured = False  # what was pushed last
        self._has_served: set[str] = set()
        self._last_failed: set[str] = set()  # who took part in the last push that failed
        self._suspects: set[str] = set()  # those of them that have been silent since
        self.publish_s: float | None = None  # of the last push that was completed
        self.stall_s = 0.0  # that the main thread has waited here, in all

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._line.cancel_calls()
        for executor in (self._gatherer, self._publisher):
            executor.shutdown(wait=True, cancel_futures=True)
        self._close_group(is_broken=False)

    def push(self, version: int, is_measured: bool = False) -> None:
        """Start to send the weights as they are now as `version`.

        They must not change before `wait_for_snapshot` has returned.

        Args:
            is_measured: servers keep a copy for held-out samples, where they can.
        """
        started = time.monotonic()
        self.wait()
        self._probes = ()
        self._is_measured = is_measured
        if self._checks is not None and (
            self._is_shared or self._checks.is_due(self._pushes) or self._is_anyone_behind()
        ):
            self._probes = self._checks.probes()
        self._pushes += 1
        self._checksums = None
        self._snapshot.begin()
        self._gathering = self._gatherer.submit(self._snapshot.gather)
        self._push = self._publisher.submit(self._push_until_done, version)
        self.stall_s += time.monotonic() - started

    def wait_for_snapshot(self) -> None:
        """Returns when the weights may change."""
        gathering, self._gathering = self._gathering, None
        if gathering is not None:
            started = time.monotonic()
            gathering.result()
            self.stall_s += time.monotonic() - started

    def wait(self) -> None:
        """Wait for the push under way.

        Raises:
            WeightSyncError: it failed as often as is allowed; names the servers.
            Interrupted: this process is to stop.
        """
        self.wait_for_snapshot()
        while self._push is not None:
            done, _ = concurrent.futures.wait([self._push], timeout=_LOOK_S)
            if done:
                push, self._push = self._push, None
                push.result()
            elif self._is_interrupted():
                raise Interrupted("a push was under way")

    def check(self) -> None:
        """As `wait`, but at once: raises when the push under way has failed already."""
        if self._push is not None and self._push.done():
            self.wait()

    def push_again_if_behind(self) -> None:
        """Push the last weights again if a live server is without them. Call it while waiting."""
        self.check()
        if self._push is None and self._pushed_version >= 0 and self._is_someone_without_weights():
            if not self._probes and self._checks is not None and not self._is_shared:
                self._probes = self._checks.probes()  # whoever comes late is verified as well
            self._push = self._publisher.submit(self._push_until_done, self._pushed_version)

    # ---- the publisher's thread, or the main one while that has nothing to do --------------------
    def _is_anyone_behind(self) -> bool:
        """A server that is new, or failed in the last push: it is verified whatever is due."""
        peers = self._peers(0, 0.0)
        return any(peer.served < self._pushed_version for peer in peers.values())

    def _is_someone_without_weights(self) -> bool:
        peers = self._peers(0, 0.0)
        behind = {name for name, peer in peers.items() if peer.served < self._pushed_version}
        newcomers = {
            name
            for name in behind
            if name not in self._recipients or (peers[name].served < 0 and name in self._has_served)
        }
        is_overdue = time.monotonic() - self._pushed_at > self._patience_s
        if behind and (newcomers or is_overdue):
            logger.warning(
                "%s without version %d: pushing again",
                ", ".join(sorted(behind)),
                self._pushed_version,
            )
            return True
        return False

    @property
    def _patience_s(self) -> float:
        """Seconds that a server may take from the end of a push to its acknowledgement."""
        loading_s = self._config.load_timeout_s if self._files else self._config.timeout_s
        # A probe waits its turn behind the requests that a pause has put back.
        return loading_s + (self._verify_timeout_s if self._probes else 0.0)

    def _push_until_done(self, version: int) -> None:
        started = time.monotonic()
        for attempt in range(self._config.max_attempts):
            if attempt == 0:
                is_first = self._pushed_version < 0
                peers = self._wait_for_peers(self._num_servers if is_first else 1)
            else:
                peers = self._wait_for_signs_of_life()
            try:
                with self._snapshot.sending.entered():
                    self._push_once(version, peers, is_retry=attempt > 0)
            except VisionOpdError:  # the line to the broker
                raise
            except (RuntimeError, OSError) as error:  # torch.distributed's errors, or files
                self._last_failed = set(self._recipients)
                self._close_group(is_broken=True)
                if self._closing.is_set():
                    raise Interrupted("the push was cut short") from error
                logger.warning(
                    "push of version %d to %s failed (try %d of %d): %s",
                    version, ", ".join(peers), attempt + 1, self._config.max_attempts,
                    str(error).splitlines()[0],
                )  # fmt: skip
                continue
            self._pushed_version, self._pushed_at = version, time.monotonic()
            self.publish_s = self._pushed_at - started
            return
        raise WeightSyncError(
            f"version {version} could not be pushed to {', '.join(peers)} in "
            f"{self._config.max_attempts} tries. Fix: see their logs; weights.timeout_s is "
            f"{self._config.timeout_s:g} s a phase"
        )

    def _push_once(self, version: int, peers: Peers, is_retry: bool) -> None:
        self._has_served |= {name for name, peer in peers.items() if peer.served >= 0}
        if self._probes and self._checksums is None and self._checks is not None:
            self._checksums = self._checks.checksums(self._snapshot)
        if self._files is not None:
            self._recipients = dict.fromkeys(peers, 0)
            name = f"version-{version:06d}-{self._groups_made}"
            self._groups_made += 1
            self._announce(version, self._files.write(name, self._snapshot))
            return
        needs_group = is_retry or not self._can_reuse_group(peers)
        if needs_group:
            self._make_group(peers)
        group = self._group
        assert group is not None
        self._announce(version, self._record(group))
        if needs_group:
            group.join()
        for content in self._snapshot.ready():
            group.broadcast(content)

    def _can_reuse_group(self, peers: Peers) -> bool:
        """The same servers, every one known to have come through the last push."""
        is_current = all(peer.served == self._pushed_version for peer in peers.values())
        return self._group is not None and peers.keys() == self._recipients.keys() and is_current

    def _make_group(self, peers: Peers) -> None:
        self._close_group(is_broken=False)
        self._groups_made += 1
        next_rank = 1
        for name, peer in sorted(peers.items()):
            self._recipients[name] = next_rank
            next_rank += peer.ranks
        self._group = PushGroup(
            f"{self._group_prefix}-{self._groups_made}",
            self._config.host,
            world_size=next_rank,
            backend=self._backend,
            timeout_s=self._config.timeout_s,
            within=self._snapshot.sending.entered,
        )

    def _record(self, group: PushGroup) -> GroupRecord:
        return GroupRecord(
            name=group.name,
            host=self._config.host,
            port=group.port,
            backend=self._backend,
            world_size=group.world_size,
        )

    def _announce(self, version: int, source: GroupRecord | WeightFiles) -> None:
        self._attempt = self._attempt + 1 if version == self._version else 0
        self._version = version
        update = WeightUpdate(
            version=version,
            history=self._history,
            attempt=self._attempt,
            recipients=dict(self._recipients),
            source=source,
            buckets=self._snapshot.buckets,
            pause_mode=self._config.pause_mode,
            probes=self._probes,
            checksums=self._checksums,
            is_measured=self._is_measured,
        )
        self._line.call(lambda broker: broker.announce(update), _CALL_S)

    def _wait_for_peers(self, at_least: int) -> Peers:
        """The live rollout servers, once there are `at_least`, or any when time is up."""
        deadline = time.monotonic() + self._start_timeout_s
        while not self._closing.is_set():
            left_s = deadline - time.monotonic()
            peers = self._peers(at_least, max(0.0, min(_WATCH_S, left_s)))
            if len(peers) >= at_least:
                return peers
            if left_s <= 0 and peers:
                logger.warning("%d of %d rollout servers are there", len(peers), at_least)
                return peers
            if left_s <= 0:
                raise WeightSyncError(
                    f"no rollout server came within {self._start_timeout_s:.0f} s. "
                    "Fix: see the rollout logs; rollout.start_timeout_s sets the limit"
                )
            self._closing.wait(_PEERS_S)  # those that the broker lists may not count yet
        raise Interrupted("the push was cut short")

    def _wait_for_signs_of_life(self) -> Peers:
        """The servers heard of since a push failed: the broker may still list a dead one."""
        deadline = time.monotonic() + self._start_timeout_s
        while not self._closing.wait(max(self._silence_s, _NOTICE_S)):
            heard_of = self._heard_of_lately()
            self._suspects = self._last_failed - heard_of
            peers = self._peers(0, 0.0)
            if peers:
                return peers
            if time.monotonic() > deadline:
                raise WeightSyncError(
                    f"version {self._version}: every rollout server failed in its push and none "
                    f"came back within {self._start_timeout_s:.0f} s. Fix: see the rollout logs"
                )
        raise Interrupted("the push was cut short")

    def _peers(self, at_least: int, wait_s: float) -> Peers:
        reply = self._line.call(
            lambda broker: broker.watch_members(at_least, wait_s), wait_s + _CALL_S
        )
        if self._suspects & reply.acknowledged.keys():
            self._suspects -= self._heard_of_lately()
        return {
            name: Peer(served, reply.ranks[name])
            for name, served in reply.acknowledged.items()
            if name not in self._suspects and reply.ranks[name] > 0
        }

    def _heard_of_lately(self) -> set[str]:
        """Rollout servers that gave a sign of life within `_silence_s`."""
        status = self._line.call(lambda broker: broker.status(), _CALL_S)
        return {
            member.member_id
            for member in status.members
            if member.role is Role.ROLLOUT and member.silent_s <= self._silence_s
        }

    @property
    def _backend(self) -> Literal["gloo", "nccl"]:
        if self._config.backend != "auto":
            return self._config.backend
        return "nccl" if self._snapshot.device.type == "cuda" else "gloo"

    def _close_group(self, is_broken: bool) -> None:
        group, self._group, self._recipients = self._group, None, {}
        if group is not None:
            group.close(is_broken)


def weight_folder(config: WeightsSection, run_folder: Path, model: Any) -> WeightFolder | None:
    """Where pushes go as files; None: they go through a group."""
    if config.transport == "broadcast":
        return None
    folder = config.folder or run_folder / "weights"
    return WeightFolder(folder, model, str(run_folder.absolute()))


def snapshot_of(
    config: WeightsSection, weights: Mapping[str, torch.Tensor], ranks: Ranks = ALONE
) -> Snapshot:
    """Room for what one push sends, under the names that a server takes.

    In main memory if it goes to files anyway: a GPU that is shared has none to spare.
    """
    return Snapshot(
        _Pushed(weights),
        getattr(torch, config.dtype),
        config.bucket_mib,
        ranks,
        is_on_host=config.transport == "files",
    )


class _Pushed(Mapping[str, torch.Tensor]):
    """Live weights under pushed names. Some are made when they are asked for, so: not a dict."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._weights = weights
        self._own_names = {pushed_name(name): name for name in weights}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._weights[self._own_names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own_names)

    def __len__(self) -> int:
        return len(self._own_names)
