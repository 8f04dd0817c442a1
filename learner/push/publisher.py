"""Push weights to every live rollout server, in threads beside the next step."""

import concurrent.futures
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from broker.client import CALL_TIMEOUT_S, BrokerClient
from broker.protocol import Status
from common import spans
from common.config import WeightsSection
from common.errors import VisionOpdError, WeightSyncError
from common.types import GroupAddress, WeightChecksums, WeightFiles, WeightProbe, WeightUpdate
from learner.interrupt import Interrupted
from learner.push.buckets import Snapshot
from learner.push.expectations import Expectations
from learner.push.pusher import Pusher
from learner.push.roster import Peers, Roster
from learner.push.routes import FileRoute, GroupRoute
from learner.push.weight_files import WeightFolder
from learner.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
_WATCH_S = 10.0  # how long the broker may hold a question for members
_LOOK_S = 0.5  # between looks for an interruption, in the main thread
_PEERS_S = 0.1  # between questions for members that the broker answers at once
_NOTICE_S = 1.5  # a worker gives up a silent engine a second after the learner's own timeout
_CALL_S = CALL_TIMEOUT_S


class Line(Protocol):
    """How requests reach the broker (`learner.feed.Feed`)."""

    def call(
        self, request: Callable[[BrokerClient], Awaitable[Answer]], timeout_s: float
    ) -> Answer: ...

    def cancel_calls(self) -> None: ...


@dataclass
class _Content:
    version: int
    is_measured: bool
    probes: tuple[WeightProbe, ...] = ()
    checksums: WeightChecksums | None = None  # None until a try asks for them
    num_announced: int = 0


class Publisher(Pusher):
    """The pusher of rank 0. Use it as a context manager, by the main thread alone.

    Args:
        history: that the versions belong to, as the broker told when this learner resumed.
        snapshot: of the student's weights.
        num_servers: how many rollout servers the first push waits for.
        start_timeout_s: seconds to wait for servers.
        heartbeat_s: how often, at least, a live server is heard of.
        checks: None means that pushes are not verified.
        is_interrupted: asked while the main thread waits; True ends the wait.
        files: where weights go instead of through a group; None means through a group.
        verify_timeout_s: how long a server may take over a probe before its own worker gives it up.
        ranks: where there are others they hold parts of the weights. They take part in each probe
            and snapshot, so there is one with every push, and none at other times.
        is_greeting: as `learner.push.routes.GroupRoute` has it.
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
        checks: Expectations | None = None,
        files: WeightFolder | None = None,
        is_interrupted: Callable[[], bool] = lambda: False,
        ranks: Ranks = ALONE,
        verify_timeout_s: float = 0.0,
        is_greeting: bool = True,
    ) -> None:
        self._config = config
        self._line = line
        self._history = history
        self._snapshot = snapshot
        self._num_servers = num_servers
        self._checks = checks
        self._is_interrupted = is_interrupted
        self._is_shared = ranks.world_size > 1
        # Seconds that a server may take from the end of a push to its acknowledgement. A probe
        # waits its turn behind the requests that a pause has put back.
        self._load_s = config.load_timeout_s if files else config.timeout_s
        self._verify_s = verify_timeout_s
        self._roster = Roster(1.5 * heartbeat_s, start_timeout_s)
        self._route = (
            FileRoute(files, snapshot) if files else GroupRoute(config, snapshot, is_greeting)
        )
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._gatherer = ThreadPoolExecutor(1, thread_name_prefix="gatherer")
        self._push: Future[None] | None = None
        self._gathering: Future[None] | None = None
        self._closing = threading.Event()
        self._num_pushes = 0
        self._content = _Content(version=-1, is_measured=False)
        self.publish_s: float | None = None
        self.stall_s = 0.0

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._line.cancel_calls()
        for executor in (self._gatherer, self._publisher):
            executor.shutdown(wait=True, cancel_futures=True)
        self._route.close()

    def push(self, version: int, is_measured: bool = False) -> None:
        started = time.monotonic()
        with spans.span("wait_push"):
            self.wait()
        probes: tuple[WeightProbe, ...] = ()
        if self._checks is not None and (
            self._is_shared or self._checks.is_due(self._num_pushes) or self._is_anyone_behind()
        ):
            with spans.span("make_probes", version=version):
                probes = self._checks.probes()
        before = self._content
        num_announced = before.num_announced if before.version == version else 0
        self._content = _Content(version, is_measured, probes, num_announced=num_announced)
        self._num_pushes += 1
        self._snapshot.begin()
        self._gathering = self._gatherer.submit(self._gather, version)
        self._push = self._publisher.submit(self._push_until_done, self._content)
        self.stall_s += time.monotonic() - started

    def wait_for_snapshot(self) -> None:
        gathering, self._gathering = self._gathering, None
        if gathering is not None:
            started = time.monotonic()
            gathering.result()
            self.stall_s += time.monotonic() - started

    def wait(self) -> None:
        self.wait_for_snapshot()
        while self._push is not None:
            done, _ = concurrent.futures.wait([self._push], timeout=_LOOK_S)
            if done:
                push, self._push = self._push, None
                push.result()
            elif self._is_interrupted():
                raise Interrupted("a push was under way")

    def push_again_if_behind(self) -> None:
        if self._push is not None and self._push.done():
            self.wait()  # raises if it failed
        if self._push is None and self._roster.pushed_version >= 0 and self._is_anyone_in_need():
            content = self._content
            if not content.probes and self._checks is not None and not self._is_shared:
                content.probes = self._checks.probes()  # a server that comes late is verified, too
            self._push = self._publisher.submit(self._push_until_done, content)

    def _gather(self, version: int) -> None:
        with spans.span("gather", version=version):
            self._snapshot.gather()

    # ---- the publisher's thread, or the main one while that has nothing to do --------------------
    def _is_anyone_behind(self) -> bool:
        """Whether a server is new or failed in the last push: such a one is verified at once."""
        self._look()
        return bool(self._roster.behind())

    def _is_anyone_in_need(self) -> bool:
        self._look()
        patience_s = self._load_s + (self._verify_s if self._content.probes else 0.0)
        names = self._roster.in_need(self._route.recipients, patience_s, time.monotonic())
        if names:
            logger.warning(
                "%s without version %d: pushing again",
                ", ".join(sorted(names)),
                self._roster.pushed_version,
            )
        return bool(names)

    def _push_until_done(self, content: _Content) -> None:
        started, version = time.monotonic(), content.version
        for attempt in range(self._config.max_attempts):
            with spans.span("wait_servers", version=version):
                peers = self._wait_for_return(version) if attempt else self._wait_for_peers()
            try:
                with self._snapshot.sending.entered():
                    self._push_once(content, peers, is_retry=attempt > 0)
            except VisionOpdError:  # the line to the broker
                raise
            except (RuntimeError, OSError) as error:  # torch.distributed's errors, or files
                self._roster.note_failed(self._route.recipients)
                self._route.close(is_broken=True)
                if self._closing.is_set():
                    raise Interrupted("the push was cut short") from error
                logger.warning(
                    "push of version %d to %s failed (try %d of %d): %s",
                    version, ", ".join(peers), attempt + 1, self._config.max_attempts,
                    str(error).splitlines()[0],
                )  # fmt: skip
                continue
            now = time.monotonic()
            self._roster.note_pushed(version, now)
            self.publish_s = now - started
            spans.note("push", started, now, version=version, servers=len(peers))
            spans.flush()
            return
        raise WeightSyncError(
            f"version {version} could not be pushed to {', '.join(peers)} in "
            f"{self._config.max_attempts} tries. Fix: see their logs; weights.timeout_s is "
            f"{self._config.timeout_s:g} s a phase"
        )

    def _push_once(self, content: _Content, peers: Peers, is_retry: bool) -> None:
        self._roster.note_begun(peers)
        if content.probes and content.checksums is None and self._checks is not None:
            with spans.span("make_checksums", version=content.version):
                content.checksums = self._checks.checksums(self._snapshot)
        before = self._roster.pushed_version
        is_current = not is_retry and all(peer.served == before for peer in peers.values())
        self._route.send(
            content.version, peers, is_current, lambda source: self._announce(content, source)
        )

    def _announce(self, content: _Content, source: GroupAddress | WeightFiles) -> None:
        update = WeightUpdate(
            version=content.version,
            history=self._history,
            attempt=content.num_announced,
            recipients=dict(self._route.recipients),
            source=source,
            buckets=self._snapshot.buckets,
            pause_mode=self._config.pause_mode,
            probes=content.probes,
            checksums=content.checksums,
            is_measured=content.is_measured,
        )
        content.num_announced += 1
        with spans.span("announce", version=content.version):
            self._line.call(lambda broker: broker.announce(update), _CALL_S)

    # ---- what the broker tells of servers --------------------------------------------------------
    def _wait_for_peers(self) -> Peers:
        """The live rollout servers; for the first push, once all are there that are to come."""
        at_least = self._num_servers if self._roster.pushed_version < 0 else 1
        began = time.monotonic()
        while not self._closing.is_set():
            waited_s = time.monotonic() - began
            left_s = self._roster.start_timeout_s - waited_s
            self._look(at_least, max(0.0, min(_WATCH_S, left_s)))
            if (peers := self._roster.wait_for(at_least, waited_s)) is not None:
                return peers
            self._closing.wait(_PEERS_S)  # those that the broker lists may not count yet
        raise Interrupted("the push was cut short")

    def _wait_for_return(self, version: int) -> Peers:
        """The servers heard of since a push failed: the broker may still list a dead one."""
        began = time.monotonic()
        while not self._closing.wait(max(self._roster.silence_s, _NOTICE_S)):
            self._roster.suspect(self._status())
            self._look()
            waited_s = time.monotonic() - began
            if (peers := self._roster.wait_for_return(version, waited_s)) is not None:
                return peers
        raise Interrupted("the push was cut short")

    def _look(self, at_least: int = 0, wait_s: float = 0.0) -> None:
        members = self._line.call(
            lambda broker: broker.watch_members(at_least, wait_s), wait_s + _CALL_S
        )
        self._roster.note_members(members)
        if self._roster.lists_suspects:
            self._roster.clear(self._status())

    def _status(self) -> Status:
        return self._line.call(lambda broker: broker.status(), _CALL_S)
