"""What a run waits for, and since when: looks come in, lines come out. `RunWaits` looks."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from broker.protocol import MemberStatus, Role, Status
from common.config import RunConfig
from deploy.supervision.process_table import Entry, ProcessTable
from deploy.supervision.silence import SilenceWatch

DRAINING = "draining"
_HANGING_S = 10.0  # without an answer of the broker until that is worth a word


@dataclass(frozen=True)
class Look:
    status: Status | None  # the broker's last answer; None if there was none yet
    answered_s: float  # since that answer, or since the start
    processes: Sequence[Entry]
    silent_s: dict[str, float] = field(default_factory=dict)  # processes that have been lost
    limits_s: dict[str, float] = field(default_factory=dict)  # when these are replaced
    engine_urls: Sequence[str] = ()  # of engines that others start
    is_stopping: bool = False


@dataclass(frozen=True)
class Wait:
    """Something that has to happen before the run goes on."""

    key: str  # the same for as long as it is the same wait
    text: str
    age_s: float | None = None  # known by itself; None to count from the first look


class Situation:
    """Remembers since when each wait has lasted."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._now = 0.0
        self._waits: list[Wait] = []

    def look(self, look: Look, now: float) -> None:
        """Take in what is seen now.

        Args:
            now: seconds on any steady clock.
        """
        self._now = now
        self._waits = list(waits(look))
        self._since = {wait.key: self._since.get(wait.key, now) for wait in self._waits}

    def lines(self, at_least_s: float = 0.0) -> dict[str, str]:
        """The waits that have lasted for so long, by key, the most important first."""
        ages = {wait.key: self._age(wait) for wait in self._waits}
        return {
            wait.key: f"{wait.text}, since {ages[wait.key]:.0f} s"
            for wait in self._waits
            if ages[wait.key] >= at_least_s
        }

    def _age(self, wait: Wait) -> float:
        return wait.age_s if wait.age_s is not None else self._now - self._since[wait.key]


class Supervised(Protocol):
    """The part of the supervisor that is looked at."""

    table: ProcessTable
    silence: SilenceWatch
    status: Status | None


class RunWaits:
    """A view that remembers when the broker last answered; called, it gives the waits by key.

    Args:
        stop: set when the run is to end.
    """

    def __init__(self, config: RunConfig, supervisor: Supervised, stop: asyncio.Event) -> None:
        self._urls = config.rollout.engine_urls
        self._supervisor = supervisor
        self._stop = stop
        self._situation = Situation()
        self._answered = time.monotonic()

    def update(self, status: Status, elapsed_s: float) -> None:
        self._answered = time.monotonic()

    def __call__(self, at_least_s: float) -> dict[str, str]:
        now, silence = time.monotonic(), self._supervisor.silence
        look = Look(
            self._supervisor.status,
            now - self._answered,
            self._supervisor.table.entries(),
            dict(silence.silent_s),
            {name: s for name in silence.silent_s if (s := silence.limit_s(name)) is not None},
            self._urls,
            self._stop.is_set(),
        )
        self._situation.look(look, now)
        return self._situation.lines(at_least_s)


def waits(look: Look) -> Iterable[Wait]:
    """All that is waited for, the most important first."""
    status = look.status
    if look.is_stopping:
        yield _draining(look)
    if status is None:
        yield from _starting(look)
        return
    if look.answered_s > _HANGING_S:
        yield Wait("broker", "waiting for the broker: no answer", look.answered_s)
    if status.store_failure:
        yield Wait("disk", f"waiting for the disk: {status.store_failure}")
    for process, seconds in sorted(look.silent_s.items()):
        limit_s = look.limits_s.get(process)
        then = "" if limit_s is None else f" (it is replaced at {limit_s:.0f} s)"
        yield Wait(f"silent {process}", f"{process}: silent{then}", seconds)
    if not look.is_stopping and not status.finished:
        yield from _missing(look, status)
        yield from _at_work(status)


def _draining(look: Look) -> Wait:
    groups = look.status.counts.get("samples_in_flight", 0) if look.status else 0
    under_way = f"{groups} group{'' if groups == 1 else 's'} under way"
    busy = [entry.name for entry in look.processes if entry.state == "ending"]
    whom = f", {', '.join(busy)} ending" if busy else ""
    return Wait(DRAINING, f"{DRAINING}: {under_way}{whom}; Ctrl-C again ends at once")


def _starting(look: Look) -> Iterable[Wait]:
    broker = next((entry for entry in look.processes if entry.name == "broker"), None)
    if look.is_stopping:
        return
    if broker is None or broker.state != "up":
        state = "" if broker is None else f" ({broker.state})"
        yield Wait("start broker", f"starting: waiting for the broker{state}")
    else:
        yield Wait("data", "starting: waiting for the broker, which reads data and journal")


def _missing(look: Look, status: Status) -> Iterable[Wait]:
    """Processes that run, or should run, and that the broker has not heard of."""
    present = {member.member_id for member in status.members}
    for entry in look.processes:
        kind = entry.name.partition("-")[0]
        if kind == "broker" or entry.name in look.silent_s or entry.state in _AT_REST:
            continue
        if entry.state != "up":
            yield Wait(f"{entry.state} {entry.name}", f"waiting for {entry.name}: {entry.state}")
        elif kind == "learner" and entry.name not in present:
            yield Wait(f"load {entry.name}", f"waiting for {entry.name}, which loads the model")
        elif kind == "rollout":
            yield from _engines(entry.name, present, look.engine_urls)


_AT_REST = ("ending", "ended", "given up")


def _engines(process: str, present: set[str], urls: Sequence[str]) -> Iterable[Wait]:
    if not urls:
        if process not in present:
            yield Wait(f"engine {process}", f"waiting for the engine of {process}")
        return
    for number, url in enumerate(urls):
        member = f"{process}.{number}" if len(urls) > 1 else process
        if member not in present:
            yield Wait(f"engine {member}", f"waiting for the engine {url} ({member})")


def _at_work(status: Status) -> Iterable[Wait]:
    """Waits of learner and servers for each other."""
    learner = next((m for m in status.members if m.role is Role.LEARNER), None)
    servers = [m for m in status.members if m.role is Role.ROLLOUT]
    behind = [server.member_id for server in servers if _is_behind(server, status)]
    if learner is None:
        return
    doing = learner.gauges.get("doing", 0.0)
    if doing == _PUSHING or (behind and len(behind) == len(servers)):
        whom = ", ".join(behind[:3]) + (f" and {len(behind) - 3} more" if len(behind) > 3 else "")
        to = f" to {whom}" if whom else ""
        yield Wait(f"push {status.version}", f"pushing weights {status.version}{to}")
    elif doing == _AWAITING_BATCH:
        groups = status.counts.get("samples_in_flight", 0)
        text = f"waiting for the batch of step {status.version + 1}: {groups} groups under way"
        yield Wait(f"batch {status.version}", text)


_AWAITING_BATCH, _PUSHING = 1.0, 2.0  # as `learner.progress.Doing` has them


def _is_behind(server: MemberStatus, status: Status) -> bool:
    return server.acknowledged_version < status.version < status.total_steps
