"""Answers to held-out questions for the learner's measurements, beside training groups.

    lease items > render their pictures > ask greedily with the version asked for > submit

A response of which any token is of other weights is no answer: its item is given back, and asked
again where that version is still to be had.
"""

import asyncio
import logging
import os

import numpy as np

from broker.client import BrokerClient, RequestRefused
from broker.protocol import Answer, AnswerLease, AskedItem
from common.config import RunConfig
from common.errors import DataError, EngineError
from common.group import Trajectory
from common.lifecycle import set_or_after
from common.types import FinishReason
from common.views.settings import ViewSettings
from rollout.engine import EngineGone, GroupRequest, RequestFailed, RequestRejected
from rollout.engine_views import EngineView, EngineViews
from rollout.image_files import ImageFiles
from rollout.pool import Server
from rollout.serving import Served
from rollout.worker import PromptRenderer

logger = logging.getLogger(__name__)
_LEASE_WAIT_S = 5.0  # how long the broker may hold the question
_AT_ONCE = 32  # items of a lease: enough for batches, few enough to share with other servers
_LEASES = 2  # leases at once: while one is answered the next one's pictures are made
_RETRY_S = 1.0  # pause after an engine that did not answer
_SEED = 0  # nothing is drawn in these views
_SAID = 300  # characters that are kept of a reason
_NO_TOKENS = np.empty(0, dtype=np.int32)


class Answerer:
    """The task of one server that leases held-out questions, which its engine answers.

    Args:
        server: the one whose engine answers.
    """

    def __init__(
        self, config: RunConfig, broker: BrokerClient, server: Server, renderer: PromptRenderer
    ) -> None:
        self._config = config
        self._broker = broker
        self._server = server
        self._renderer = renderer
        self._views = EngineViews(renderer, ViewSettings.of(config).measuring())
        self._images = ImageFiles(config.data.heldout, broker)
        self._has_all_threads = False

    async def run(self, finished: asyncio.Event) -> None:
        """Answer until it is cancelled, or the run is `finished`."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_LEASES):
                tasks.create_task(self._lease_until(finished))

    async def _lease_until(self, finished: asyncio.Event) -> None:
        while not finished.is_set():
            served = await self._server.serving.wait()
            lease = await self._broker.lease_answers(
                served.history, served.version, self._server.pinned_of(served), _AT_ONCE,
                _LEASE_WAIT_S,
            )  # fmt: skip
            if lease.finished:
                finished.set()
            if lease.items and not await self._fulfil(lease, served.history):
                await set_or_after(finished, _RETRY_S)  # meanwhile the engine may be started again

    async def _fulfil(self, lease: AnswerLease, history: int) -> bool:
        """Submit what could be answered, and give back the rest; false if nothing was answered."""
        if lease.is_last and not self._has_all_threads:
            self._has_all_threads = True
            await self._use_idle_cores()
        asked = [self._answer(item, lease, history) for item in lease.items]
        found = await asyncio.gather(*asked)
        answers = [answer for answer in found if answer is not None]
        pairs = zip(lease.items, found, strict=True)
        given_back = [item.index for item, answer in pairs if answer is None]
        try:
            await self._broker.submit_answers(lease.number, answers, given_back)
        except RequestRefused as error:  # the lease lapses
            logger.warning("answers of version %d are not taken: %s", lease.version, error)
        return bool(answers)

    async def _answer(self, item: AskedItem, lease: AnswerLease, history: int) -> Answer | None:
        """The answer to an item; None means not with this version, or not now."""
        try:
            request = await self._request(item, lease, history)
            result = None if request is None else await self._server.engine.generate(request)
        except (DataError, RequestRejected, RequestFailed) as error:
            return Answer(index=item.index, token_ids=_NO_TOKENS, error=str(error)[:_SAID])
        except EngineError as error:
            logger.info("held-out sample %s: %s", item.sample.sample_id, error)
            if isinstance(error, EngineGone):
                await self._report_if_lost()
            return None
        if result is None or result.num_aborted:
            return None
        (response,) = result.trajectories
        return _as_answer(item, response) if _is_of(response, lease.version) else None

    async def _request(
        self, item: AskedItem, lease: AnswerLease, history: int
    ) -> GroupRequest | None:
        view = await self._view(item)
        wanted, serving = Served(history, lease.version), self._server.serving
        is_served = await serving.settled() == wanted
        is_pinned = lease.version in self._server.pinned_of(wanted)
        if not is_served and not is_pinned:
            return None
        # Training waits for what is urgent, and for the last there is no other work.
        is_beside = is_pinned and not (is_served and (lease.is_urgent or lease.is_last))
        return GroupRequest(
            prompt_token_ids=self._renderer.prompt_token_ids(view.problem),
            images=(view.image,),
            num_trajectories=1,
            temperature=0.0,
            top_p=1.0,
            top_k=-1,
            max_response_tokens=lease.max_tokens,
            banned_token_ids=tuple(self._renderer.vision_token_ids),
            end_token_ids=tuple(self._renderer.end_token_ids),
            seed=0 if self._config.rollout.deterministic else None,
            pinned_version=lease.version if is_beside else None,
        )

    async def _view(self, item: AskedItem) -> EngineView:
        """The view of an item; raises what `ImageFiles.read` and `EngineViews.make` raise."""
        known = self._views.known(item.sample, item.view, _SEED)
        if known is not None:
            return known
        content = await self._images.read(self._views.source(item.sample, item.view))
        return await asyncio.to_thread(self._views.make, item.sample, item.view, _SEED, content)

    async def _report_if_lost(self) -> None:
        """Report an engine that answers nothing else either, so that it is started again."""
        try:
            await self._server.engine.version()
        except EngineError as error:
            self._server.report_lost(error)

    async def _use_idle_cores(self) -> None:
        """Use the learner's cores, too: nothing is trained any more."""
        threads = self._config.rollout.threads
        if threads is None or self._config.rollout.deterministic:
            return  # all are in use, or another order of sums would be another answer
        share = len(os.sched_getaffinity(0)) // self._config.rollout.servers
        if share > threads:
            await self._server.engine.use_threads(share)


def _is_of(response: Trajectory, version: int) -> bool:
    """Whether all its tokens are of the weights of one version."""
    return response.oldest_version == response.newest_version == version


def _as_answer(item: AskedItem, response: Trajectory) -> Answer:
    return Answer(
        index=item.index,
        token_ids=response.response_token_ids,
        is_cut=response.finish_reason is FinishReason.LENGTH,
    )
