"""Places processes through Ray: placement groups give machines, one actor a process runs it.

A pool that names a number of machines is one placement group, of as many bundles on different
machines, each with room for its share of the processes; so all learner ranks are placed, or none.
Other processes have a group each, which comes and goes with them: that is how a pool grows and
shrinks. Ray moves the bundles of a machine that is lost to another one, when there is one.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, TypeVar

from common.errors import FinalError, VisionOpdError
from deploy.cluster.fit import gpus_of_bundle
from deploy.cluster.pools import Pool, PoolName, process_name
from deploy.cluster.process_specs import Location
from deploy.supervision.process_actor import ProcessActor, StartRequest

Answer = TypeVar("Answer")
_SIGNAL_S = 5.0
_START_S = 60.0
_SET_UP_S = 1800.0  # packages may have to be downloaded first
_LOOK_AGAIN_S = 1.0  # after an actor could not be reached
_TOKEN_CPUS = 0.01


class NoPlace(FinalError):
    """No machine had room for a process within the time given."""


class PlaceLost(VisionOpdError):
    """A machine was lost before the process on it could start."""


class Placed:
    """One process and its place. Made by Placement; the place is reserved from then on."""

    def __init__(self, name: str, pool: Pool, actor: Any, own_group: Any) -> None:
        self.name = name
        self._pool = pool
        self._actor = actor
        self._own_group = own_group
        self._location: asyncio.Task[Location] | None = None

    async def location(self, timeout_s: float) -> Location:
        """Where it is. Raises NoPlace, PlaceLost."""
        import ray

        self._location = asyncio.create_task(_answer(self._actor.location.remote()))
        await asyncio.wait([self._location], timeout=timeout_s)
        if not self._location.done():
            raise NoPlace(
                f"{self.name} found no machine with room within {timeout_s:g} s: it needs "
                f"{needs(self._pool)}. Fix: add or free some, or lower [{self._pool.name}_pool]"
            )
        try:
            return self._location.result()
        except ray.exceptions.RayError as error:
            raise PlaceLost(f"{self.name} lost its place: {_first_line(error)}") from error

    async def start(self, request: StartRequest) -> int:
        """Its pid. Raises PlaceLost, and VisionOpdError when it cannot be started there."""
        import ray

        limit_s = _START_S if request.set_up is None else _SET_UP_S
        try:
            async with asyncio.timeout(limit_s):
                return await _answer(self._actor.start.remote(request))
        except TimeoutError:
            raise PlaceLost(f"{self.name} was not started within {limit_s:g} s") from None
        except ray.exceptions.RayTaskError as error:
            raise VisionOpdError(f"{self.name} cannot be started: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise PlaceLost(f"{self.name} lost its place: {_first_line(error)}") from error

    async def wait(self) -> int | None:
        """The exit code; None when the machine or the Ray worker was lost."""
        import ray

        while True:
            try:
                return await _answer(self._actor.wait.remote())
            except ray.exceptions.ActorUnavailableError:
                await asyncio.sleep(_LOOK_AGAIN_S)  # cut off; Ray will say when it is lost
            except ray.exceptions.RayError:
                return None

    async def signal(self, number: int) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(_SIGNAL_S):
                await _answer(self._actor.signal.remote(number))

    def release(self) -> None:
        """Give the place back. What still runs there is ended."""
        import ray

        if (
            self._location is not None
            and not self._location.cancel()
            and not self._location.cancelled()
        ):
            self._location.exception()  # marks it as retrieved, if nothing else did
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self._actor)
        if self._own_group is not None:
            _remove(self._own_group)


class Placement:
    """Places on the Ray that this process is connected to.

    Args:
        reserves_cpus: false on one machine, where that could only keep a process from starting.
    """

    def __init__(self, reserves_cpus: bool) -> None:
        self._reserves_cpus = reserves_cpus
        self._groups: dict[PoolName, Any] = {}

    def place(self, pool: Pool, rank: int) -> Placed:
        """Reserve a place for one process of a pool; `Placed.location` says when there is one."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        pool = pool if self._reserves_cpus else replace(pool, cpus=_TOKEN_CPUS)
        is_of_group = pool.nodes is not None and rank < pool.processes
        if is_of_group:
            group = self._group(pool)
            bundle = rank // processes_a_node(pool)
        else:
            group, bundle = _reserve(replace(pool, processes=1, nodes=1)), 0
        actor = ray.remote(ProcessActor).options(
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=bundle
            ),
        )
        name = process_name(pool.name, rank)
        return Placed(name, pool, actor.remote(), None if is_of_group else group)

    def _group(self, pool: Pool) -> Any:
        if pool.name not in self._groups:
            self._groups[pool.name] = _reserve(pool)
        return self._groups[pool.name]

    def close(self) -> None:
        """Give all places back."""
        for group in self._groups.values():
            _remove(group)
        self._groups.clear()


def processes_a_node(pool: Pool) -> int:
    """Processes a machine of a pool that names its number of machines; the last may have fewer."""
    return math.ceil(pool.processes / (pool.nodes or 1))


def needs(pool: Pool) -> str:
    """What one process needs, for people."""
    parts = [f"{pool.cpus:g} CPUs"] if pool.cpus != _TOKEN_CPUS else []
    parts += [f"{pool.gpus:g} GPUs"] if pool.gpus else []
    parts += [f"label {key}={value}" for key, value in pool.labels.items()]
    return ", ".join(parts) or "next to nothing"


def _reserve(pool: Pool) -> Any:
    import ray

    share = processes_a_node(pool)
    bundle = {"CPU": pool.cpus * share}
    if pool.gpus:
        bundle["GPU"] = gpus_of_bundle(pool)
    count = pool.nodes or 1
    return ray.util.placement_group(
        [bundle] * count,
        strategy="STRICT_SPREAD" if count > 1 else "PACK",
        bundle_label_selector=[dict(pool.labels)] * count if pool.labels else None,
    )


def _remove(group: Any) -> None:
    import ray

    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.util.remove_placement_group(group)


async def _answer(reference: Awaitable[Answer]) -> Answer:
    return await reference


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
