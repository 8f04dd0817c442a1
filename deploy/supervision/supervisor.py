"""Starts the processes of a run, keeps them alive, and ends them in good order.

start:  broker > (its address) > learner, rollouts
death:  a rollout is started again by itself; the learner's ranks all together, from their newest
        checkpoint; the broker from its journal, at the address that the others know. If it has to
        listen elsewhere, or if another process told the learner to stop, the whole run
        continues, as with `run.resume`
end:    the learner is done > the others follow by themselves within drain_s
stop:   SIGTERM to the learner > to the rollouts > to the broker; SIGKILL to what does not listen,
        and to all of them when it is to end at once
silence: a process that the broker has lost although it runs is killed, which is a death
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from broker.protocol import Status
from common.config import RunConfig
from common.errors import ConfigError, VisionOpdError
from common.lifecycle import set_or_after
from common.restart_budget import RestartBudget
from common.scrape.port import forget_target
from deploy.cluster.pools import Pool, PoolName, pools_of, process_name
from deploy.cluster.process_specs import Location
from deploy.showing.outcome import read_summary
from deploy.supervision.broker_address import BrokerAddress
from deploy.supervision.process_actor import StartRequest
from deploy.supervision.process_set import End, Process, ProcessSet, first_done, until_done
from deploy.supervision.process_table import FILE, ProcessTable
from deploy.supervision.restart_loop import RestartLoop
from deploy.supervision.silence import SilenceWatch, silence_limits_s
from deploy.supervision.start_requests import start_requests

logger = logging.getLogger(__name__)
_STATUS_LAG_S = 3.0  # until the broker's word that the run is over has come round
_BROKER_GRACE_S = 3.0  # when all others have ended, it only waits for those that died
_LONGEST_PAUSE_S = 60.0  # before a restart
_MOST_SERVERS = 1000  # a slip of the finger must not place millions
Place = Callable[[Pool, int], Process]


class Ended(Enum):
    """Why a round of the run is over."""

    FINISHED = "finished"
    STOPPED = "stopped"
    RESUMED = "resumed"  # all is to be started again, from the run folder


class _Server(NamedTuple):
    """A rollout server, and the task that ends when it is not started again."""

    loop: RestartLoop
    task: "asyncio.Task[None]"


class Supervisor:
    """Owns the processes of one run. As a view it learns from the broker's status who takes part.

    Args:
        place: reserves a place for one process of a pool, by rank.
        report: gets a line whenever a process has died.
        at_once: set when nothing may drain any more.
    """

    def __init__(
        self,
        config: RunConfig,
        run_folder: Path,
        place: Place,
        report: Callable[[str], None] = lambda line: None,
        at_once: asyncio.Event | None = None,
    ) -> None:
        self._config = config
        self._folder = run_folder
        self._place = place
        self._report = report
        self._pools = {pool.name: pool for pool in pools_of(config)}
        self._budget = self._new_budget()  # of rounds
        self.servers = config.rollout.servers  # that there are to be
        self._known: set[str] = set()  # members that the broker has seen
        self._at_once = asyncio.Event() if at_once is None else at_once
        self._over = asyncio.Event()  # nothing is started again
        self._is_closing = False  # what became of this round is settled
        self._broker_has_left = False  # by itself: the others have said goodbye to it
        self._rollouts: dict[int, _Server] = {}  # by rank
        self._learner: RestartLoop | None = None
        self.silence = SilenceWatch(silence_limits_s(config))
        self._tasks: asyncio.TaskGroup | None = None
        self.table = ProcessTable(run_folder / FILE)
        self._address = BrokerAddress(run_folder, self.table)
        self._first_version: int | None = None  # of the learner, when this launcher began
        self.status: Status | None = None  # as last seen

    async def run(self, stop: asyncio.Event) -> bool:
        """Run to the end. False when `stop` ended it early.

        Raises:
            ProcessFailed: a process ended with an error and is not started again.
            NoPlace: the cluster has no room for the broker or the learner.
        """
        while True:
            ended = await self._round(stop)
            if ended is not Ended.RESUMED:
                return ended is Ended.FINISHED
            pause_s = self._budget.pause_before_next(time.monotonic())
            if pause_s is None:
                raise VisionOpdError(
                    f"the run was interrupted once more than the {self._budget.max_restarts} times "
                    f"(cluster.max_restarts) that it goes on from by itself. Fix: see why in "
                    f"{self._folder / FILE}; then start it again with --run.resume true"
                )
            await set_or_after(stop, pause_s)
            if stop.is_set():
                return False

    def update(self, status: Status, elapsed_s: float) -> None:
        """A look at the broker."""
        self.status = status
        if self._first_version is None:
            self._first_version = status.version
        self._known.update(member.member_id.partition(".")[0] for member in status.members)
        if status.finished:
            self._over.set()
        elif not self._is_closing and not self._broker_has_left:
            self._over.clear()  # a run that is resumed may have been over before
        self._see_to_silence(status)

    def _see_to_silence(self, status: Status) -> None:
        """Show what the broker has lost, and replace what does not come back."""
        before = set(self.silence.silent_s)
        members = [member.member_id for member in status.members]
        overdue = self.silence.look(members, status.lost)
        for name in self.silence.silent_s.keys() - before:
            self.table.mark(name, "silent")
        for name in before - self.silence.silent_s.keys():
            self.table.mark(name, "up")
        for name in overdue if not self._over.is_set() else ():
            why = f"was silent for {self.silence.silent_s[name]:.0f} s and was killed"
            loop = self._loop_of(name)
            if loop is not None:
                loop.replace(name, why)

    def _loop_of(self, name: str) -> RestartLoop | None:
        loops = [self._learner, *(server.loop for server in self._rollouts.values())]
        return next((loop for loop in loops if loop and name in loop.names), None)

    async def broker_address(self) -> str:
        """Where the broker is, once it is known."""
        return await self._address.wait()

    @property
    def has_trained(self) -> bool:
        """A step, since this launcher began."""
        return self.status is not None and self.status.version > (self._first_version or 0)

    # ---- resizing --------------------------------------------------------------------------------
    def scale(self, servers: int) -> None:
        """Have so many rollout servers from now on; those with the highest numbers drain and go.

        Raises:
            ConfigError: there is no such number of them.
        """
        if servers < 1:
            raise ConfigError(f"rollout = {servers}: a run needs one. Fix: rollout=1 or more")
        if servers > _MOST_SERVERS:
            raise ConfigError(f"rollout = {servers}. Fix: no more than {_MOST_SERVERS}")
        if self._over.is_set():
            raise ConfigError("its processes are being ended just now. Fix: see deploy.status")
        logger.info("rollout servers: %d, to be %d", self.servers, servers)
        self.servers = servers
        if self._rollouts and not self._over.is_set():
            self._match_servers()

    def _match_servers(self) -> None:
        for rank, server in self._rollouts.items():
            if rank >= self.servers:
                server.loop.end()
        for rank in range(self.servers):
            known = self._rollouts.get(rank)
            if known is None or known.loop.is_ending or known.task.done():
                self._start_rollout(rank, after=known.task if known else None)

    def _start_rollout(self, rank: int, after: "asyncio.Task[None] | None") -> None:
        assert self._tasks is not None
        loop = self._restart_loop("rollout", [rank], self._rollout_is_done, may_wait=True)
        task = self._tasks.create_task(self._keep_rollout(loop, rank, after))
        self._rollouts[rank] = _Server(loop, task)

    async def _keep_rollout(
        self, loop: RestartLoop, rank: int, after: "asyncio.Task[None] | None"
    ) -> None:
        if after is not None:
            await asyncio.wait([after])  # it had the same name
        try:
            await self._lives_of(loop)
        except VisionOpdError as error:
            self._give_up(rank, error)
        if rank >= self.servers:
            self.table.remove(process_name("rollout", rank))

    def _give_up(self, rank: int, error: VisionOpdError) -> None:
        name = process_name("rollout", rank)
        self.table.set(name, "given up")
        others = [server.task for other, server in self._rollouts.items() if other != rank]
        if all(task.done() for task in others):
            self._settle(error)
        else:
            self._report(f"going on without {name}: {error}")

    # ---- one round -------------------------------------------------------------------------------
    async def _round(self, stop: asyncio.Event) -> Ended:
        """From the broker's start to the end of all."""
        loop = asyncio.get_running_loop()
        self._verdict: asyncio.Future[Ended] = loop.create_future()
        self._address.forget()
        self._is_closing = self._broker_has_left = False
        self._over.clear()
        (self._folder / "summary.json").unlink(missing_ok=True)  # it told of an end that is none
        async with asyncio.TaskGroup() as self._tasks:
            stopped = self._tasks.create_task(stop.wait())
            broker = self._restart_loop("broker", [0], self._broker_is_done, on_up=self._on_broker)
            kept = [self._tasks.create_task(self._keep(broker))]
            learner = self._learner = self._restart_loop(
                "learner", range(self._pools["learner"].processes), self._learner_is_done
            )
            try:
                await first_done(self._address.known, self._verdict, stopped)
                if self._address.known.done() and not stopped.done() and not self._verdict.done():
                    kept.append(self._tasks.create_task(self._keep(learner)))
                    self._match_servers()
                    await first_done(self._verdict, stopped)
            finally:
                self._is_closing = True
                self._over.set()
                await self._end_all(broker, learner, kept)
                stopped.cancel()
                self._rollouts.clear()
        return self._verdict.result() if self._verdict.done() else Ended.STOPPED

    async def _keep(self, loop: RestartLoop) -> None:
        """Broker or learner: the run cannot be without it."""
        try:
            await self._lives_of(loop)
        except VisionOpdError as error:
            self._report(f"{str(error).partition('. ')[0]}; ending the others")
            self._settle(error)

    async def _lives_of(self, loop: RestartLoop) -> None:
        """All of them; then Prometheus looks for the processes no more. Raises as the loop does."""
        try:
            await loop.run()
        finally:
            for name in loop.names:
                forget_target(self._folder, name)

    def _settle(self, how: Ended | VisionOpdError) -> None:
        if self._verdict.done() or self._is_closing:
            return
        if isinstance(how, Ended):
            self._verdict.set_result(how)
        else:
            self._verdict.set_exception(how)

    async def _end_all(
        self, broker: RestartLoop, learner: RestartLoop, kept: Sequence[asyncio.Task[None]]
    ) -> None:
        drain_s = self._config.cluster.drain_s
        is_finished = (
            self._verdict.done()
            and self._verdict.exception() is None
            and self._verdict.result() is Ended.FINISHED
        )
        learner.end()
        await _all(kept[1:])
        servers = list(self._rollouts.values())
        rollouts = [server.task for server in servers]
        for server in servers:
            if not server.loop.is_up.is_set():
                server.loop.end()  # waits for a place, or for its next life
        if is_finished:
            await until_done(rollouts, drain_s, self._at_once)  # they follow by themselves
        for server in servers:
            server.loop.end()
        await _all(rollouts)
        if is_finished:
            await until_done(kept[:1], min(drain_s, _BROKER_GRACE_S), self._at_once)
        broker.end()
        await _all(kept)

    # ---- when an end is the last one -------------------------------------------------------------
    async def _learner_is_done(self, end: End) -> bool:
        if not end.is_good and not self._broker_has_left:
            return False
        if end.is_good and not self._was_interrupted():
            self._settle(Ended.FINISHED)
            return True
        if end.is_good:
            self._report("somebody else told the learner to stop; going on from its checkpoint")
        else:
            self._report(f"{end.name} {end.why} after the broker had left; starting all again")
        why = "was told to stop by somebody else" if end.is_good else end.why
        for name in self._pools["learner"].process_names():
            self.table.note_restart(name, why)
        self._settle(Ended.RESUMED)
        return True

    def _was_interrupted(self) -> bool:
        summary = read_summary(self._folder)  # None: told before there was anything to sum up
        return summary is None or bool(summary["interrupted"])

    async def _rollout_is_done(self, end: End) -> bool:
        if end.is_good:
            await set_or_after(self._over, _STATUS_LAG_S)
        return self._over.is_set()

    async def _broker_is_done(self, end: End) -> bool:
        """It ends well by itself when all have said goodbye to it, which is before they end."""
        if end.is_good:
            self._broker_has_left = True
            self._over.set()
        return end.is_good

    # ---- the broker's address --------------------------------------------------------------------
    def _on_broker(self) -> None:
        assert self._tasks is not None
        self._tasks.create_task(self._learn_address())

    async def _learn_address(self) -> None:
        """Learn the started broker's address; another one than before ends the round."""
        try:
            address = await self._address.read()
        except VisionOpdError as error:
            self._settle(error)
            return
        if address is None:
            return  # its restart loop does the rest
        self._known.add("broker")
        if not self._address.known.done():
            self._address.known.set_result(address)
        elif address != self._address.known.result() and not self._verdict.done():
            self._report(f"the broker has moved to {address}; starting the others again")
            self._settle(Ended.RESUMED)

    # ---- restart loops --------------------------------------------------------------------------
    def _restart_loop(
        self,
        pool: PoolName,
        ranks: Sequence[int],
        is_done: Callable[[End], Awaitable[bool]],
        may_wait: bool = False,
        on_up: Callable[[], None] = lambda: None,
    ) -> RestartLoop:
        config, names = self._config, [process_name(pool, rank) for rank in ranks]

        def make_set(ending: asyncio.Event) -> ProcessSet:
            processes = [self._place(self._pools[pool], rank) for rank in ranks]
            for name in names:
                self.silence.begin(name)
            return ProcessSet(processes, self.table, ending, config.cluster.drain_s, self._at_once)

        def make_requests(locations: Sequence[Location]) -> list[StartRequest]:
            address = self._address.told_to(pool)
            rank, servers = ranks[0], self._servers_to_wait_for()
            return start_requests(pool, rank, locations, address, servers, config, self._folder)

        return RestartLoop(
            names=names,
            make_set=make_set,
            make_requests=make_requests,
            budget=self._new_budget(),
            table=self.table,
            log_folder=self._folder / "logs",
            place_timeout_s=config.cluster.place_timeout_s,
            is_known=lambda: self._known.issuperset(names),
            is_done=is_done,
            may_wait=may_wait,
            report=self._report,
            on_up=on_up,
        )

    def _servers_to_wait_for(self) -> int:
        """Before the learner's first push. Those that have no machine would only hold it up."""
        states = {entry.name: entry.state for entry in self.table.entries()}
        names = [process_name("rollout", rank) for rank in range(self.servers)]
        absent = {"given up"}
        if self._known.issuperset(self._pools["learner"].process_names()):
            absent.add("waiting for a place")  # at first all of them do
        return max(1, sum(states.get(name) not in absent for name in names))

    def _new_budget(self) -> RestartBudget:
        cluster = self._config.cluster
        return RestartBudget(
            cluster.max_restarts,
            cluster.restart_window_s,
            max(_LONGEST_PAUSE_S, cluster.restart_delay_s),
            cluster.restart_delay_s,
        )


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
