"""Lease > generate > submit, up to `max_concurrent_groups` groups at once.

A lease that cannot be fulfilled is given back: at once when the sample is at fault, after a check
that the engine still lives when the engine is. Work that a pause cut short is done again.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from broker.client import BrokerClient, RequestRefused
from broker.protocol import Verdict
from common.config import RunConfig
from common.errors import DataError, EngineError
from common.images import ImageStore
from common.types import Group, GroupLease, ImageRef
from rollout.engine import Engine, GroupRequest, GroupResult, RequestRejected
from rollout.serving import Figures, Serving

logger = logging.getLogger(__name__)
_LEASE_WAIT_S = 5.0  # how long the broker may hold the question
_MAX_TRIES = 3  # of one lease, when pauses abort its generation


class PromptRenderer(Protocol):
    """The part of common.rendering.Renderer that rollout needs."""

    vision_token_ids: list[int]

    def prompt_token_ids(self, problem: str) -> Any: ...


class RolloutWorker:
    """Keeps one engine busy."""

    def __init__(
        self,
        config: RunConfig,
        broker: BrokerClient,
        engine: Engine,
        serving: Serving,
        renderer: PromptRenderer,
        figures: Figures,
    ) -> None:
        self._rollout = config.rollout
        self._broker = broker
        self._engine = engine
        self._serving = serving
        self._renderer = renderer
        self._figures = figures
        self._images = _image_store(config)
        self._slot_freed = asyncio.Event()

    async def run_until(self, stop: asyncio.Event, finished: asyncio.Event, drain_s: float) -> None:
        """Works until `stop` (then groups under way may take `drain_s`) or `finished`."""
        async with asyncio.TaskGroup() as groups:
            under_way: set[asyncio.Task[None]] = set()
            while await _unless_set(self._next_leases(finished), stop, finished):
                for lease in self._leases:
                    task = groups.create_task(self._serve(lease), name=lease.group_id)
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
            if under_way and not finished.is_set():
                logger.info("draining %d groups", len(under_way))
                await _wait_all(under_way, finished, drain_s)
            for task in under_way:
                task.cancel()

    async def _next_leases(self, finished: asyncio.Event) -> None:
        """Waits for weights to serve, for a free slot and for work; leaves it in `_leases`."""
        self._leases: tuple[GroupLease, ...] = ()
        served = await self._serving.wait()
        free = self._rollout.max_concurrent_groups - self._figures.groups_in_flight
        if free <= 0:
            self._slot_freed.clear()
            await self._slot_freed.wait()
            return
        reply = await self._broker.lease(free, served.version, _LEASE_WAIT_S, served.history)
        if reply.finished:
            finished.set()
        for _ in reply.leases:
            self._figures.group_started()
        self._leases = reply.leases

    async def _serve(self, lease: GroupLease) -> None:
        try:
            async with asyncio.timeout(lease.lease_s):
                await self._fulfil(lease)
        except (DataError, RequestRejected) as error:
            await self._give_back(lease, str(error), broken_sample=True)
        except EngineError as error:
            await self._give_back(lease, str(error), broken_sample=False)
            await self._engine.version()  # raises when the engine is gone: that ends the process
        except TimeoutError:
            logger.warning("the lease of group %s lapsed after %g s", lease.group_id, lease.lease_s)
        finally:
            self._figures.group_ended()
            self._slot_freed.set()

    async def _fulfil(self, lease: GroupLease) -> None:
        request = await self._request(lease)
        result = await self._generate(request)
        group = Group(
            group_id=lease.group_id,
            attempt=lease.attempt,
            sample=lease.sample,
            prompt_token_ids=request.prompt_token_ids,
            num_prompt_tokens=result.num_prompt_tokens,
            trajectories=result.trajectories,
        )
        verdict = await self._broker.submit(group)
        if verdict is Verdict.ACCEPTED:
            self._figures.group_submitted(group)
        else:
            logger.info("group %s: %s", group.group_id, verdict)

    async def _generate(self, request: GroupRequest) -> GroupResult:
        for _ in range(_MAX_TRIES):
            result = await self._engine.generate(request)
            if result.num_aborted == 0:
                return result
            await self._serving.wait()
        raise EngineError(f"the generation was aborted {_MAX_TRIES} times")

    async def _request(self, lease: GroupLease) -> GroupRequest:
        return GroupRequest(
            prompt_token_ids=self._renderer.prompt_token_ids(lease.sample.problem),
            images=(await self._image_bytes(lease.sample.image),),
            num_trajectories=lease.num_trajectories,
            temperature=self._rollout.temperature,
            top_p=self._rollout.top_p,
            top_k=self._rollout.top_k,
            max_response_tokens=self._rollout.max_response_tokens,
            banned_token_ids=tuple(self._renderer.vision_token_ids),
            seed=lease.sampling_seed if self._rollout.deterministic else None,
        )

    async def _image_bytes(self, image: ImageRef) -> bytes:
        if self._images is not None:
            return await asyncio.to_thread(self._images.read_bytes, image)
        try:
            return await self._broker.image(image.sha256)
        except RequestRefused as error:
            raise DataError(f"image {image.path}: {error}") from error

    async def _give_back(self, lease: GroupLease, reason: str, *, broken_sample: bool) -> None:
        logger.warning("giving back group %s: %s", lease.group_id, reason)
        await self._broker.give_back(lease.group_id, lease.attempt, reason[:500], broken_sample)


def _image_store(config: RunConfig) -> ImageStore | None:
    """The dataset folder where this machine has it; None: images come from the broker."""
    if config.data.train is None or not config.data.train.parent.is_dir():
        return None
    return ImageStore(config.data.train.parent)


async def _unless_set(work: Coroutine[Any, Any, None], *events: asyncio.Event) -> bool:
    """Awaits `work` and says True; cancels it and says False as soon as an event is set."""
    tasks = [asyncio.ensure_future(work), *(asyncio.ensure_future(e.wait()) for e in events)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if any(event.is_set() for event in events):
            return False
        tasks[0].result()
        return True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_all(
    under_way: set[asyncio.Task[None]], finished: asyncio.Event, timeout_s: float
) -> None:
    over = asyncio.ensure_future(finished.wait())
    work = asyncio.ensure_future(asyncio.wait(set(under_way)))
    try:
        await asyncio.wait({over, work}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        over.cancel()
        work.cancel()
        await asyncio.gather(over, work, return_exceptions=True)
