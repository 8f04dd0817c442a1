"""Starts the processes of a run, notices the first that fails, and ends the others in good order.

start:  broker > (its address) > rollouts, learner
end:    the learner is done > the others follow by themselves within drain_s
stop:   SIGTERM to the learner > to the rollouts > to the broker; SIGKILL to what does not listen
"""

import asyncio
import json
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.config import RunConfig
from common.errors import VisionOpdError
from deploy.roles import Role, broker_role, worker_roles

logger = logging.getLogger(__name__)
_BROKER_TIMEOUT_S = 60.0
_LOOK_S = 0.05
_KILL_GRACE_S = 5.0
_BROKER_GRACE_S = 3.0  # when all others have ended, it only waits for those that died
_TAIL_LINES = 20


class Process(Protocol):
    role: Role

    async def start(self) -> None: ...
    async def wait(self) -> int | None: ...
    async def signal(self, number: int) -> None: ...


Place = Callable[[Role], Process]


class RoleFailed(VisionOpdError):
    """A process of the run ended before its time."""

    def __init__(self, name: str, code: int | None, log: Path) -> None:
        self.log = log
        super().__init__(f"{name} {_describe(code)}. The end of {log}:\n{tail(log)}")


@dataclass(frozen=True)
class Running:
    process: Process
    exit: asyncio.Task[int | None]


class Supervisor:
    """Owns the processes of one run.

    Args:
        place: makes the handle of a role's process, not started yet.
        report: gets a line as soon as a process has failed, before the others are ended.
    """

    def __init__(
        self,
        config: RunConfig,
        run_folder: Path,
        place: Place,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._config = config
        self._folder = run_folder
        self._place = place
        self._report = report
        self._running: list[Running] = []
        self.broker_address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self, stop: asyncio.Event) -> bool:
        """Run to the end. False when `stop` ended it early.

        Raises:
            RoleFailed: a process ended with an error.
        """
        try:
            address = await self._start_broker(stop)
            if address is None:
                return False
            self.broker_address.set_result(address)
            for role in worker_roles(self._config, self._folder, address):
                await self._start(role)
            return await self._watch(stop)
        finally:
            self.broker_address.cancel()
            await self._end_all()

    async def _start_broker(self, stop: asyncio.Event) -> str | None:
        path = self._folder / "broker.json"
        before = _writing_of(path)  # by the broker of a run that is resumed
        broker = await self._start(broker_role(self._folder))
        latest = asyncio.get_running_loop().time() + _BROKER_TIMEOUT_S
        while _writing_of(path) == before:
            if broker.exit.done():
                raise self._failure(broker)
            if stop.is_set():
                return None
            if asyncio.get_running_loop().time() > latest:
                raise VisionOpdError(
                    f"the broker gave no address within {_BROKER_TIMEOUT_S:.0f} s. The end of "
                    f"{self._log(broker)}:\n{tail(self._log(broker))}"
                )
            await asyncio.sleep(_LOOK_S)  # a file has no event
        address: str = json.loads(path.read_text(encoding="utf-8"))["address"]
        return address

    async def _start(self, role: Role) -> Running:
        process = self._place(role)
        await process.start()
        running = Running(process, asyncio.create_task(_exit_of(process), name=role.name))
        self._running.append(running)
        return running

    async def _watch(self, stop: asyncio.Event) -> bool:
        """Until every process has ended well, or `stop`."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while pending := [r.exit for r in self._running if not r.exit.done()]:
                is_finished = self._is_finished()
                await asyncio.wait(
                    [*pending, stopped],
                    return_when=asyncio.FIRST_COMPLETED,
                    timeout=self._config.cluster.drain_s if is_finished else None,
                )
                self._raise_first_failure()
                if stopped.done():
                    return False
                if is_finished and pending == [r.exit for r in self._running if not r.exit.done()]:
                    return True  # the run is done; what lingers is ended by `_end_all`
            return True
        finally:
            stopped.cancel()

    def _is_finished(self) -> bool:
        return any(r.process.role.ends_run and r.exit.done() for r in self._running)

    def _raise_first_failure(self) -> None:
        for running in self._running:
            if running.exit.done() and running.exit.result() != 0:
                raise self._failure(running)

    def _failure(self, running: Running) -> RoleFailed:
        name, code = running.process.role.name, running.exit.result()
        self._report(f"{name} {_describe(code)}; ending the others")
        return RoleFailed(name, code, self._log(running))

    def _log(self, running: Running) -> Path:
        return self._folder / "logs" / f"{running.process.role.name}.log"

    async def _end_all(self) -> None:
        drain_s = self._config.cluster.drain_s
        learners = [r for r in self._running if r.process.role.ends_run]
        broker = self._running[:1]
        await self._end(learners, drain_s)
        await self._end(self._running[1:], drain_s)
        await self._end(broker, min(drain_s, _BROKER_GRACE_S))

    async def _end(self, group: list[Running], drain_s: float) -> None:
        for number, patience_s in ((signal.SIGTERM, drain_s), (signal.SIGKILL, _KILL_GRACE_S)):
            alive = [running for running in group if not running.exit.done()]
            if not alive:
                return
            for running in alive:
                await running.process.signal(number)
            await asyncio.wait([running.exit for running in alive], timeout=patience_s)


def _writing_of(path: Path) -> tuple[int, int] | None:
    """Tells one writing of a file that is replaced as a whole from another; None: there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


async def _exit_of(process: Process) -> int | None:
    code = await process.wait()
    logger.info("%s %s", process.role.name, _describe(code))
    return code


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, indented; a remark when there are none."""
    try:
        content = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError as error:
        return f"  (cannot be read here: {error.strerror})"
    return "\n".join(f"  {line}" for line in content) or "  (it is empty)"


def _describe(code: int | None) -> str:
    if code is None:
        return "was lost together with its machine or Ray worker"
    if code == 0:
        return "ended"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"failed with exit code {code}"
