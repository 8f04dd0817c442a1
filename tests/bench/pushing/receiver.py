"""A rollout server that only receives weights, and tells when it did what."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from broker import protocol
from broker.client import BrokerClient, heartbeat_forever
from broker.protocol import Role
from common import lifecycle
from rollout.http_engine import HttpEngine
from rollout.serving import ServingState
from rollout.weights import WeightReceiver, follow_weights

_BEAT_S = 2.0
PHASES = {  # the calls of one push, in their order
    "pause": "pause",
    "begin_update": "begin",
    "update": "buckets",
    "end_update": "end",
    "version": "version",
    "resume": "resume",
}


@dataclass
class PushReport:
    """One push as one server saw it. Times are those of time.monotonic()."""

    announced_at: float
    acknowledged_at: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    paused_at: float = 0.0
    resumed_at: float = 0.0

    @property
    def pause_s(self) -> float:
        return self.resumed_at - self.paused_at


class TimedEngine(HttpEngine):
    """The engine's client; it times the calls that a push is made of."""

    report = PushReport(0.0)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return self._timed(PHASES[name], found) if name in PHASES else found

    def _timed(self, phase: str, call: Callable[..., Awaitable[Any]]) -> Any:
        async def timed(*arguments: Any, **named: Any) -> Any:
            report, started = self.report, time.monotonic()
            if phase == "pause":
                report.paused_at = started
            answer = await call(*arguments, **named)
            ended = time.monotonic()
            report.phases_s[phase] = report.phases_s.get(phase, 0.0) + ended - started
            if phase == "resume":
                report.resumed_at = ended
            return answer

        return timed


class TimedClient(BrokerClient):
    """The broker's client; it reports each push when the broker knows that it is through."""

    def report_to(self, pipe: Any, engine: TimedEngine) -> None:
        self._pipe, self._engine = pipe, engine

    async def watch_weights(self, seen_serial: int, wait_s: float) -> protocol.Announcement:
        news = await super().watch_weights(seen_serial, wait_s)
        if news.update is not None:
            self._engine.report = PushReport(time.monotonic())
        return news

    async def ack_weights(
        self, version: int, history: int = 0, is_pinned: bool = False
    ) -> protocol.Done:
        done = await super().ack_weights(version, history, is_pinned)
        report = self._engine.report
        report.acknowledged_at = time.monotonic()
        self._pipe.send(report)
        return done


def receive_pushes(
    pipe: Any, broker_address: str, engine_url: str, member_id: str, timeout_s: float
) -> None:
    """Says that it is there, then a PushReport after each push, until SIGTERM."""

    async def receive(stop: asyncio.Event) -> None:
        engine = TimedEngine(engine_url, request_timeout_s=timeout_s, control_timeout_s=timeout_s)
        client = TimedClient(broker_address, member_id, Role.ROLLOUT)
        client.report_to(pipe, engine)
        finished, serving = asyncio.Event(), ServingState()
        async with engine, client as broker, asyncio.TaskGroup() as tasks:
            receiver = WeightReceiver(engine, await engine.info(), member_id, serving)
            pipe.send("here")
            work = (
                tasks.create_task(follow_weights(broker, receiver, serving, finished)),
                tasks.create_task(heartbeat_forever(broker, dict, _BEAT_S, finished)),
            )
            await stop.wait()
            for task in work:
                task.cancel()

    lifecycle.run(receive)
