"""The life of one rollout server: its engine, its membership of the broker, its restarts.

An engine's life and its membership are one: when the engine dies or no longer answers, the member
says goodbye (its leases are issued again at once), the engine is started anew, and says hello as
one that has no weights yet. The next push brings them.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from broker.client import BrokerClient, heartbeat_forever
from broker.net.transport import zmq_link
from broker.protocol import Role
from common.config import RunConfig
from common.engines.keys import configured_key
from common.engines.packages import server_nccl
from common.errors import EngineError
from common.lifecycle import set_or_after
from common.restart_budget import RestartBudget
from common.versions import versions
from rollout.answering import Answerer
from rollout.engine import Engine, EngineInfo
from rollout.http_engine import HttpEngine
from rollout.pins import Pins
from rollout.pool import Server, ServerPool
from rollout.serving import Figures, ServingState
from rollout.weights import WeightReceiver, follow_weights, weights_folder
from rollout.worker import PromptRenderer, RolloutWorker

logger = logging.getLogger(__name__)
_VERSION_CHARACTERS = 40
_ASK_AGAIN_S = 2.0  # between two looks for an engine that others start
_LAST_WORD_S = 2.0  # wait for the end of a process that does not answer any more
_HEALTH_TRIES = 3  # failures in a row that make an engine count as lost
StartedEngine = Callable[[], AbstractAsyncContextManager["RunningEngine"]]


class RunningEngine:
    """An engine that answers.

    Args:
        watch: never returns; raises EngineError when the engine's process has ended.
        api_key: the key that it asks for; None means that it asks for none.
    """

    def __init__(
        self,
        url: str,
        watch: Callable[[], Coroutine[Any, Any, None]] | None = None,
        api_key: str | None = None,
    ) -> None:
        self.url = url
        self.watch = watch
        self.api_key = api_key


class RolloutServer:
    """One rollout server of this process.

    Args:
        started: starts or attaches to the engine, and ends what it has started.
        renderer: awaited when the first engine is up.
        budget: allowed restarts; None means those configured.
    """

    def __init__(
        self,
        config: RunConfig,
        member_id: str,
        started: StartedEngine,
        pool: ServerPool,
        renderer: Awaitable[PromptRenderer],
        stop: asyncio.Event,
        finished: asyncio.Event,
        budget: RestartBudget | None = None,
    ) -> None:
        self._budget = budget or RestartBudget(config.rollout.max_restarts)
        self._versions = versions()  # now: files may change before the hello
        self._config = config
        self._member_id = member_id
        self._started = started
        self._pool = pool
        self._renderer = renderer
        self._stop = stop
        self._finished = finished
        self.gauges: Callable[[], dict[str, float]] = dict  # of the engine that serves, if one does

    async def live(self) -> None:
        """Serve until the run is finished or `stop` is set.

        Raises:
            EngineError: the engine did not start, or died more often than is allowed.
            BrokerUnavailable, ProtocolError: the line to the broker broke.
        """
        has_been_up = False
        while True:
            try:
                async with self._started() as engine:
                    has_been_up = True
                    if not self._stop.is_set():
                        try:
                            await self._serve(engine)
                        finally:
                            self.gauges = dict
                return
            except (EngineError, BaseExceptionGroup) as errors:
                error = first_error(errors)
                if not isinstance(error, EngineError) or not has_been_up:
                    raise error from (errors if error is not errors else None)
                if self._is_over():
                    return
                await self._pause_before_restart(error)

    async def _pause_before_restart(self, error: EngineError) -> None:
        pause_s = self._budget.pause_before_next(time.monotonic())
        if pause_s is None:
            raise EngineError(
                f"{self._member_id}: its engine died more than {self._budget.max_restarts} "
                f"times in an hour (rollout.max_restarts): {error}"
            ) from error
        logger.error("%s: %s", self._member_id, error)
        logger.warning("%s: starting the engine again in %g s", self._member_id, pause_s)
        await set_or_after(self._stop, pause_s)

    def _is_over(self) -> bool:
        return self._stop.is_set() or self._finished.is_set()

    async def _serve(self, running: RunningEngine) -> None:
        """Serve with one engine, from hello to goodbye."""
        config = self._config
        async with http_engine(config, running.url, running.api_key) as engine:
            info = await engine.info()
            serving, figures = ServingState(self._pool.changed), Figures()
            self.gauges = lambda: figures.now(serving.version)
            server = Server(self._member_id, engine, serving, capacity(config, info))
            async with self._broker(running.url, info) as broker, asyncio.TaskGroup() as tasks:
                pins = Pins(engine, server)
                receiver = WeightReceiver(
                    engine, info, self._member_id, serving, weights_folder(config), pins.pin
                )
                beat_s = broker.welcome.heartbeat_s
                background = [
                    tasks.create_task(follow_weights(broker, receiver, serving, self._finished)),
                    tasks.create_task(
                        heartbeat_forever(
                            broker, lambda: figures.take(serving.version), beat_s, self._finished
                        )
                    ),
                    tasks.create_task(
                        watch_health(engine, serving, config.broker.member_timeout_s / 4)
                    ),
                    tasks.create_task(_raise_when_lost(server, running)),
                ]
                if running.watch is not None:
                    background.append(tasks.create_task(running.watch()))
                # Shielded: all servers share it, and this engine may die while it is awaited.
                renderer = await asyncio.shield(asyncio.ensure_future(self._renderer))
                await self._pool.add(server)
                answerer = Answerer(config, broker, server, renderer)
                background.append(tasks.create_task(answerer.run(self._finished)))
                try:
                    worker = RolloutWorker(config, broker, server, self._pool, renderer, figures)
                    await worker.run_until(self._stop, self._finished, config.cluster.drain_s)
                finally:
                    await self._pool.remove(server)
                for task in background:
                    task.cancel()
        how = "the run is finished" if self._finished.is_set() else "stopped"
        logger.info("%s ended: %s", self._member_id, how)

    @contextlib.asynccontextmanager
    async def _broker(self, url: str, info: EngineInfo) -> Any:
        """Be a member of the broker inside; its leases are given back however that ends."""
        config = self._config
        nccl = await asyncio.to_thread(server_nccl, config)
        async with BrokerClient(
            config.broker.address,
            self._member_id,
            Role.ROLLOUT,
            ranks=info.ranks,
            details={"host": socket.gethostname(), "pid": str(os.getpid()), "engine": url},
            versions=self._versions | engine_version(config, info) | nccl,
            request_timeout_s=config.broker.member_timeout_s / 4,
            max_frame_bytes=config.broker.max_frame_mib * 2**20,
            link=zmq_link(config.broker, Role.ROLLOUT),
        ) as broker:
            try:
                yield broker
            except BaseExceptionGroup as errors:
                error = first_error(errors)
                if isinstance(error, EngineError):
                    done = await broker.goodbye(_in_short(error))
                    if done.is_explained:  # the sample that it died of is quarantined
                        self._budget.forgive()
                    if done.finished:  # the run needs no other engine
                        self._finished.set()
                raise
            await broker.goodbye()


def http_engine(config: RunConfig, url: str, api_key: str | None = None) -> HttpEngine:
    """The client of the engine at `url`."""
    return HttpEngine(
        url,
        request_timeout_s=config.rollout.request_timeout_s,
        control_timeout_s=config.weights.timeout_s,
        load_timeout_s=config.weights.load_timeout_s,
        api_key=api_key,
    )


def engine_version(config: RunConfig, info: EngineInfo) -> dict[str, str]:
    """The version of the engine, by its name; empty where it does not say."""
    if info.version is None:
        return {}
    return {config.rollout.engine: info.version[:_VERSION_CHARACTERS]}


def capacity(config: RunConfig, info: EngineInfo) -> int:
    """Groups that a server may have at once: as configured, or as many as it can run."""
    wanted, n = config.rollout.max_concurrent_groups, config.rollout.trajectories_per_sample
    if info.max_running is None or info.max_running >= wanted * n:
        return wanted
    possible = max(1, info.max_running // n)
    logger.warning(
        "the engine runs %d responses at once: %d groups of %d, not "
        "rollout.max_concurrent_groups = %d",
        info.max_running, possible, n, wanted,
    )  # fmt: skip
    return possible


async def watch_health(engine: Engine, serving: ServingState, interval_s: float) -> None:
    """Watch for an engine that is gone or hangs, also one that is not our child.

    It asks for the version, which an engine answers while paused, and whether it can generate only
    while it serves: asked while paused, /health would hang.

    Raises:
        EngineError: several questions in a row were not answered.
    """
    failures = 0
    while True:
        await asyncio.sleep(interval_s)
        pauses = serving.pauses
        try:
            version = await engine.version()
            # While new weights are being verified the engine already reports their version.
            if not serving.is_running or serving.is_held_back or serving.pauses > pauses:
                failures = 0
                continue
            if version != serving.version:
                raise EngineError(
                    f"it serves version {version}, not {serving.version} as was pushed: somebody "
                    "else has started it again"
                )
            if not await engine.is_healthy() and serving.pauses == pauses:
                raise EngineError("it answers but does not generate (/health)")
            failures = 0
        except EngineError as error:
            failures += 1
            if failures == _HEALTH_TRIES:
                raise
            logger.warning(
                "the engine is in trouble (%d of %d): %s", failures, _HEALTH_TRIES, error
            )


async def wait_until_it_answers(config: RunConfig, url: str, stop: asyncio.Event) -> None:
    """Return when the engine at `url`, which others have started, answers, or `stop` is set.

    Raises:
        EngineError: it does not within rollout.start_timeout_s.
    """
    deadline = time.monotonic() + config.rollout.start_timeout_s
    async with http_engine(config, url, configured_key(config)) as engine:
        while not stop.is_set():
            try:
                await engine.version()
                return
            except EngineError as error:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"no engine answers at {url}: {error}. Fix: start it, or correct "
                        "rollout.engine_urls; rollout.start_timeout_s sets the limit"
                    ) from error
                logger.info("waiting for the engine at %s: %s", url, error)
            await set_or_after(stop, _ASK_AGAIN_S)  # a foreign process cannot wake us


def _in_short(error: EngineError) -> str:
    """What ended an engine, without the end of its log."""
    return str(error).partition("\n")[0].partition("; its log ")[0] or type(error).__name__


async def _raise_when_lost(server: Server, running: RunningEngine) -> None:
    error = await server.lost
    if running.watch is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await running.watch()  # its end says more than a broken connection
    raise error


def first_error(error: BaseException) -> BaseException:
    """The first error in a tree of groups: the others follow from it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
