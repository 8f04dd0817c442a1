"""The same load for every system: one server, one producing process, one consuming process.

produce    `in_flight` tasks, each: permit > submit a group > again
consume    take a batch of `groups_per_step` groups > release it > again
alternate  both in turn in one process, so that no call waits for another: for latencies
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple, Protocol

import uvloop

from tests.bench.contest.children import SPAWN, begin_child

_TOKEN_BYTES = 8  # an int32 id and a float32 log-prob
_FEWEST_BATCHES = 4  # in a measured window, however long that takes
_TIMEOUT_S = 90.0
_is_measured: Event  # of this process: the consumer has seen enough


@dataclass(frozen=True)
class Load:
    trajectory_bytes: int
    seconds: float  # of the measured window
    warm_up_s: float  # before it
    quiet_rounds: int  # batches for the latencies
    groups_per_step: int = 16
    trajectories_per_group: int = 8
    max_staleness: int = 3
    in_flight: int = 16  # groups that the producer submits at once

    @property
    def tokens(self) -> int:
        """The tokens of a trajectory."""
        return self.trajectory_bytes // _TOKEN_BYTES

    @property
    def slots(self) -> int:
        return (self.max_staleness + 1) * self.groups_per_step


class Producer(Protocol):
    async def permit(self) -> Any:
        """Wait until a group may be made."""

    async def submit(self, permit: Any) -> None:
        """Return when the server has it."""


class Consumer(Protocol):
    async def take(self) -> None:
        """Return when all groups of a batch are in this process."""

    async def release(self) -> None:
        """The batch is trained."""


class System(Protocol):
    """One contender. Travels to other processes, so it holds plain values only."""

    def missing(self) -> str | None:
        """What to install first; None: nothing."""

    def server(self, load: Load) -> AbstractContextManager[str]:
        """A fresh server process; gives its address."""

    def producer(self, address: str, load: Load) -> AbstractAsyncContextManager[Producer]: ...

    def consumer(self, address: str, load: Load) -> AbstractAsyncContextManager[Consumer]: ...


class Latencies(NamedTuple):
    """Seconds, one figure a call."""

    submit: list[float]
    take: list[float]


class Measured(NamedTuple):
    trajectories_per_s: float  # released by the consumer
    alone: Latencies  # one call at a time
    loaded_submit: list[float]  # seconds, `in_flight` groups at once


def measure(system: System, load: Load) -> Measured:
    """One repetition, on a server of its own."""
    is_measured = SPAWN.Event()
    with (
        system.server(load) as address,
        ProcessPoolExecutor(2, SPAWN, _begin_worker, (is_measured,)) as pool,
    ):
        alone = pool.submit(_run, alternate, system, address, load).result()
        consuming = pool.submit(_run, consume, system, address, load)
        producing = pool.submit(_run, produce, system, address, load)
        wait((consuming, producing), return_when=FIRST_EXCEPTION)
        is_measured.set()
        loaded_submit = producing.result()
        return Measured(consuming.result(), alone, loaded_submit)


async def alternate(system: System, address: str, load: Load) -> Latencies:
    latencies = Latencies([], [])
    async with (
        system.consumer(address, load) as consumer,
        system.producer(address, load) as producer,
    ):
        for _ in range(load.quiet_rounds):
            for _ in range(load.groups_per_step):
                permit = await producer.permit()
                latencies.submit.append(await _seconds(producer.submit(permit)))
            latencies.take.append(await _seconds(consumer.take()))
            await consumer.release()
    return latencies


async def produce(system: System, address: str, load: Load) -> list[float]:
    """Until the consumer has seen enough; returns the seconds of every submit."""
    submits: list[float] = []

    is_over = asyncio.Event()  # a client may swallow a cancellation (redis-py does, at times)

    async def submit_forever(producer: Producer) -> None:
        while not is_over.is_set():
            permit = await producer.permit()
            submits.append(await _seconds(producer.submit(permit)))

    async with system.producer(address, load) as producer, asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(submit_forever(producer)) for _ in range(load.in_flight)]
        await asyncio.to_thread(_is_measured.wait, _TIMEOUT_S)
        is_over.set()
        for task in running:
            task.cancel()
    return submits


async def consume(system: System, address: str, load: Load) -> float:
    """Trajectories a second, from batch to batch after the warm-up."""
    ends: list[float] = []
    async with system.consumer(address, load) as consumer:
        while not (window := _window(ends, load)):
            await consumer.take()
            await consumer.release()
            ends.append(time.monotonic())
        _is_measured.set()
    num_groups = (len(window) - 1) * load.groups_per_step
    return num_groups * load.trajectories_per_group / (window[-1] - window[0])


def _window(ends: list[float], load: Load) -> list[float]:
    """The measured batches' ends; empty while there must be more."""
    if not ends or ends[-1] - ends[0] < load.warm_up_s + load.seconds:
        return []
    measured = [end for end in ends if end - ends[0] >= load.warm_up_s]
    return measured if len(measured) > _FEWEST_BATCHES else []


async def _seconds(call: Awaitable[None]) -> float:
    started = time.monotonic()
    await call
    return time.monotonic() - started


def _begin_worker(is_measured: Event) -> None:
    global _is_measured
    _is_measured = is_measured
    begin_child()


def _run(phase: Callable[..., Awaitable[Any]], system: System, address: str, load: Load) -> Any:
    async def within_time() -> Any:
        async with asyncio.timeout(_TIMEOUT_S):
            return await phase(system, address, load)

    return uvloop.run(within_time())
