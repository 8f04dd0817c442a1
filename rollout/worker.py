"""Lease > generate > submit, as many groups at once as the servers have slots for.

A group goes to the best server of the pool, one that must be alone to its member's own. Work that a
pause cut short is done again within its lease. All else that fails is given back to the broker with
the reason and whom it blames (`broker.ledger.attempts`): the sample for an answer that is an error
or useless, none of them where there was no answer. When its own server is gone, the
member's goodbye says so for all groups at once.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from broker.client import BrokerClient, MessageTooLarge, RequestRefused
from broker.protocol import Blame, Verdict
from common import spans
from common.config import RunConfig
from common.errors import DataError, EngineError
from common.group import Group
from common.types import GroupLease
from common.views.settings import ViewSettings
from common.views.showing import derived_seed
from rollout.engine import (
    CutShort,
    EngineGone,
    GroupRequest,
    GroupResult,
    RequestFailed,
    RequestRejected,
)
from rollout.engine_views import EngineView, EngineViews, ImageMaker
from rollout.image_files import ImageFiles
from rollout.pool import Server, ServerPool
from rollout.serving import Figures, Served

logger = logging.getLogger(__name__)
_LEASE_WAIT_S = 5.0  # how long the broker may hold the question
_MAX_TRIES = 3  # of one lease, when pauses cut it short
_BLAMES = {  # by the broker's code for a group that it does not take
    "bad_group": Blame.SAMPLE,
    "too_large": Blame.SAMPLE,
    "over_capacity": Blame.NOBODY,
}


class PromptRenderer(ImageMaker, Protocol):
    """The part of common.rendering.Renderer that rollout needs."""

    vision_token_ids: list[int]
    end_token_ids: list[int]

    def prompt_token_ids(self, problem: str) -> Any: ...


class _Generated(NamedTuple):
    """What a server answered, and when (time.monotonic) it was asked and answered."""

    result: GroupResult
    server: Server
    sent: float
    answered: float


class RolloutWorker:
    """Leases for one server and sees to it that the groups are generated.

    Args:
        server: the member's own, for whose free slots it leases.
        pool: the servers that may generate what it leased.
    """

    def __init__(
        self,
        config: RunConfig,
        broker: BrokerClient,
        server: Server,
        pool: ServerPool,
        renderer: PromptRenderer,
        figures: Figures,
    ) -> None:
        self._rollout = config.rollout
        self._broker = broker
        self._server = server
        self._pool = pool
        self._renderer = renderer
        self._figures = figures
        self._images = ImageFiles(config.data.train, broker)
        self._views = EngineViews(renderer, ViewSettings.of(config))
        self._view = config.student.view
        self._run_seed = config.run.seed
        self._leases: tuple[GroupLease, ...] = ()
        self._served = Served(0, 0)  # what they were granted for

    async def run_until(self, stop: asyncio.Event, finished: asyncio.Event, drain_s: float) -> None:
        """Works until `stop` (then groups under way may take `drain_s`) or `finished`."""
        async with asyncio.TaskGroup() as groups:
            under_way: set[asyncio.Task[None]] = set()
            while await _unless_set(self._next_leases(finished), stop, finished):
                for lease in self._leases:
                    task = groups.create_task(self._serve(lease, self._served), name=lease.group_id)
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
            if under_way and not finished.is_set():
                logger.info("draining %d groups", len(under_way))
                await _wait_all(under_way, finished, drain_s)
            for task in under_way:
                task.cancel()

    async def _next_leases(self, finished: asyncio.Event) -> None:
        """Waits for weights to serve, for a free slot and for work; leaves it in `_leases`."""
        self._leases = ()
        served = await self._server.serving.wait()
        room = await self._pool.wait_for_room(self._server)
        reply = await self._broker.lease(room, served.version, _LEASE_WAIT_S, served.history)
        if reply.finished:
            finished.set()
        for _ in reply.leases:
            self._figures.group_started()
        self._server.reserved += len(reply.leases)
        self._leases, self._served = reply.leases, served

    async def _serve(self, lease: GroupLease, served: Served) -> None:
        try:
            async with asyncio.timeout(lease.lease_s):
                await self._fulfil(lease, served)
        except (DataError, RequestRejected, RequestFailed, MessageTooLarge) as error:
            await self._give_back(lease, str(error), Blame.SAMPLE)
        except CutShort as error:
            await self._give_back(lease, str(error), Blame.NOBODY)
        except EngineError as error:
            await self._give_back(lease, str(error), Blame.SUSPECT)
        except RequestRefused as error:  # one lease is lost, not the process
            logger.warning("group %s is not taken: %s", lease.group_id, error)
            if error.code in _BLAMES:
                await self._give_back(lease, str(error), _BLAMES[error.code])
        except TimeoutError:  # the broker has noticed, too
            logger.warning("the lease of group %s lapsed after %g s", lease.group_id, lease.lease_s)
        finally:
            self._figures.group_ended()

    async def _fulfil(self, lease: GroupLease, served: Served) -> None:
        is_reserved = True
        began = time.monotonic()
        try:
            view = await self._engine_view(lease)
            request = self._request(lease, view)
            shown = time.monotonic()
            server = await self._choose(lease, served)
            self._server.reserved -= 1
            is_reserved = False
            generated = await self._generate(request, server, lease, served)
        finally:
            if is_reserved:
                self._server.reserved -= 1
                await self._pool.notify()
        result = generated.result
        assert result.responses is not None, "none of them was aborted"
        group = Group(
            group_id=lease.group_id,
            attempt=lease.attempt,
            sample_id=lease.sample.sample_id,
            view=view.record,
            prompt_token_ids=request.prompt_token_ids,
            num_prompt_tokens=result.num_prompt_tokens,
            responses=result.responses,
        )
        verdict = await self._broker.submit(group)
        self._note(generated, began, shown, lease)
        if verdict is Verdict.ACCEPTED:
            self._figures.group_submitted(group)
        else:
            logger.info("group %s: %s", group.group_id, verdict)

    def _note(self, done: _Generated, began: float, shown: float, lease: GroupLease) -> None:
        moments = {"shown_s": shown, "sent_s": done.sent, "answered_s": done.answered}
        spans.note(
            "generation",
            began,
            time.monotonic(),
            group=lease.group_id,
            attempt=lease.attempt,
            server=done.server.name,
            **{name: round(at - began, 6) for name, at in moments.items()},
            **asdict(done.result.latencies),
        )

    async def _generate(
        self, request: GroupRequest, server: Server, lease: GroupLease, served: Served
    ) -> _Generated:
        """Starts on `server`, whose slot is taken; frees it."""
        tries = 1
        while True:
            try:
                return await self._try(request, server)
            except CutShort as error:
                if tries == _MAX_TRIES:
                    raise
                logger.warning("trying again: %s", error)
            finally:
                await self._pool.release(server, lease.alone)
            tries += 1
            server = await self._choose(lease, served, avoid=server)

    async def _choose(
        self, lease: GroupLease, served: Served, avoid: Server | None = None
    ) -> Server:
        """Takes a slot of a server, as `ServerPool.choose` does, or all of its member's own.

        Raises:
            CutShort: what was leased has been undone meanwhile; the group is of no use.
        """
        if lease.alone:
            server = self._server
            await self._pool.claim(server, served)
        else:
            server = await self._pool.choose(lease.sample.image.sha256, served, avoid=avoid)
        now = server.serving.weights
        if now is not None and now.history != served.history:
            await self._pool.release(server, lease.alone)
            raise CutShort("a resumed learner has undone the steps that it was leased for")
        return server

    async def _try(self, request: GroupRequest, server: Server) -> _Generated:
        """Generate once, on one server.

        Raises:
            CutShort, RequestRejected, RequestFailed: see there.
            EngineGone: it does not answer this request, or not at all.
        """
        losses, pauses = server.serving.losses, server.serving.pauses
        was_paused, sent = server.serving.is_paused, time.monotonic()
        try:
            result = await server.engine.generate(request)
        except EngineGone as error:
            if not await _is_alive(server) and server is self._server:
                await asyncio.Event().wait()  # its member's life ends, and says goodbye for all
            if server.serving.is_paused:
                raise CutShort(f"{server.name}: paused for too long: {error}") from error
            raise
        answered = time.monotonic()
        if result.num_aborted:
            cut = f"{server.name}: {result.num_aborted} responses were cut short"
            if was_paused or server.serving.pauses > pauses:
                raise CutShort(cut)
            raise EngineError(f"{cut} by the engine itself")  # it may do so with this one for ever
        if await server.serving.settled() is None or server.serving.losses > losses:
            raise CutShort(f"{server.name}: its weights turned out to be wrong")
        return _Generated(result, server, sent, answered)

    def _request(self, lease: GroupLease, view: EngineView) -> GroupRequest:
        return GroupRequest(
            prompt_token_ids=self._renderer.prompt_token_ids(view.problem),
            images=(view.image,),
            num_trajectories=lease.num_trajectories,
            temperature=self._rollout.temperature,
            top_p=self._rollout.top_p,
            top_k=self._rollout.top_k,
            max_response_tokens=self._rollout.max_response_tokens,
            banned_token_ids=tuple(self._renderer.vision_token_ids),
            end_token_ids=tuple(self._renderer.end_token_ids),
            seed=lease.sampling_seed if self._rollout.deterministic else None,
        )

    async def _engine_view(self, lease: GroupLease) -> EngineView:
        """The picture as the engine sees it. Raises DataError: it cannot be read or shown."""
        seed = derived_seed(self._run_seed, lease.group_id)
        known = self._views.known(lease.sample, self._view, seed)
        if known is not None:
            return known
        content = await self._images.read(self._views.source(lease.sample, self._view))
        return await asyncio.to_thread(self._views.make, lease.sample, self._view, seed, content)

    async def _give_back(self, lease: GroupLease, reason: str, blame: Blame) -> None:
        logger.warning("giving back group %s: %s", lease.group_id, reason)
        try:
            await self._broker.give_back(lease.group_id, lease.attempt, reason, blame)
        except RequestRefused as error:  # it lapses
            logger.warning("group %s is not taken back: %s", lease.group_id, error)


async def _is_alive(server: Server) -> bool:
    """After no answer: report a server that answers nothing else either as lost."""
    try:
        await server.engine.version()
    except EngineError as error:
        server.report_lost(error)
        return False
    return True


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
