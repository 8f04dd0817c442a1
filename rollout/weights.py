"""Carry out the weight updates that the learner announces.

    init group (only a new one) > pause > begin > one call a bucket > end > checksums
        > resume > probe > ack

What a failure leaves depends on how far it came. Before the first bucket nothing has changed: the
engine goes on with the weights that it has. After that it stays paused and its member does not
lease (quarantine) until a later push succeeds: weights that changed half-way never serve. An engine
that no longer answers is given up: it is started again and joins with the next push.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from broker.client import BrokerClient
from common import spans
from common.config import RunConfig
from common.errors import EngineError
from common.files import sha256_of_file
from common.types import GroupAddress, WeightFiles, WeightUpdate
from rollout.engine import Engine, EngineGone, EngineInfo
from rollout.serving import Served, ServingState
from rollout.verification import VerificationFailed, check_checksums, check_probe

logger = logging.getLogger(__name__)
_WATCH_S = 5.0  # how long the broker may hold the question, and how late its death is noticed
_KNOCK_S = 2.0
Pin = Callable[[Served], Awaitable[bool]]
_MAX_MISMATCHES = 2  # pushes in a row that an engine may get wrong before it is started anew


class PushFailed(EngineError):
    """A push that did not succeed.

    `is_touched`: some weights have changed, so that the engine must not serve.
    """

    def __init__(self, reason: str, is_touched: bool) -> None:
        super().__init__(reason)
        self.is_touched = is_touched


class WeightReceiver:
    """The receiving side of pushes, on one engine.

    Args:
        info: the engine's.
        serving: what this engine serves; held back while it is being verified.
        folder: the only place of weight files (`weights_folder`); None means nowhere.
        pin: keeps a copy of weights that are measured; says whether it could.
    """

    def __init__(
        self,
        engine: Engine,
        info: EngineInfo,
        member_id: str,
        serving: ServingState,
        folder: Path | None = None,
        pin: Pin | None = None,
    ) -> None:
        self._folder = folder
        self._pin = pin
        self._engine = engine
        self._info = info
        self._member_id = member_id
        self._serving = serving
        self._group: str | None = None
        self._is_touched = False  # some weights have changed since the last push that succeeded
        self._is_in_doubt = False  # the engine failed a verification and has passed none since

    def is_addressee(self, update: WeightUpdate) -> bool:
        return self._member_id in update.recipients

    async def receive(self, update: WeightUpdate) -> bool:
        """Receive one whole push.

        Returns:
            Whether a copy of the weights is kept, because they are measured.

        Raises:
            PushFailed: the engine has its old weights, or is paused and must not serve.
            EngineGone: it does not answer any more.
        """
        try:
            with self.span("take_weights", update):
                await self._take_weights(update)
            with self.span("verify", update):
                await self._verify(update)
        except EngineGone:  # not recovered: while it is a member, the next push would wait for it
            raise
        except EngineError as error:
            self._is_in_doubt |= isinstance(error, VerificationFailed)
            await self._recover()
            raise PushFailed(str(error), self._is_touched) from error
        self._is_touched = self._is_in_doubt = False
        if self._pin is None or not update.is_measured:
            return False
        with self.span("pin", update):
            return await self._pin(Served(update.history, update.version))

    def span(self, name: str, update: WeightUpdate) -> contextlib.AbstractContextManager[None]:
        """Mark a phase of a push."""
        return spans.span(name, version=update.version, server=self._member_id)

    async def _take_weights(self, update: WeightUpdate) -> None:
        """Take all weights; the engine is then still paused."""
        source = update.source
        if isinstance(source, GroupAddress):
            with self.span("join", update):
                await self._join(source, update.recipients[self._member_id])
        with self.span("pause", update):
            await self._pause(await self._pause_mode(update))
        await self._end_session()  # one that a failed push has left, perhaps in an earlier life
        if isinstance(source, GroupAddress):
            with self.span("receive", update):
                await self._take_buckets(update, source)
        else:
            with self.span("read_files", update):
                await self._take_files(update, source)
        served = await self._engine.version()
        if served != update.version:
            raise EngineError(f"after the push of version {update.version} it reports {served}")

    async def _pause_mode(self, update: WeightUpdate) -> str:
        """The mode of the pause; what runs for steps that a resumed learner has undone is aborted.

        Put back in the queue it would only keep the probe waiting.
        """
        now = self._serving.weights
        if now is None or now.history == update.history:
            return update.pause_mode
        await self._serving.set(None)
        return "abort"

    async def _take_buckets(self, update: WeightUpdate, group: GroupAddress) -> None:
        await self._engine.begin_update()
        last = len(update.buckets) - 1
        for number, bucket in enumerate(update.buckets):
            self._is_touched = True
            await self._engine.update(
                bucket,
                group=group.name,
                final_version=update.version if number == last else None,
                flush=_may_flush(update),
            )
        await self._engine.end_update()

    async def _take_files(self, update: WeightUpdate, files: WeightFiles) -> None:
        await asyncio.to_thread(check_files, files, self._folder)
        self._is_touched = True
        await self._engine.load_folder(files.folder, update.version, flush=_may_flush(update))

    async def _verify(self, update: WeightUpdate) -> None:
        """Resume and verify. Until the probe is right, no response that comes back is used."""
        if self._is_in_doubt and not update.probes:
            raise EngineError("it failed a verification before, and this push brings none")
        if update.checksums is not None:
            with self.span("check_checksums", update):
                await check_checksums(self._engine, self._info, update.checksums)
        async with self._serving.held_back():
            with self.span("continue", update):
                await self._resume()
            for probe in update.probes:
                with self.span("check_probe", update):
                    difference = await check_probe(self._engine, probe)
                logger.info("the probe agrees to %.2g nats", difference)
            await self._serving.set(Served(update.history, update.version))

    async def _recover(self) -> None:
        """After a failed push, take the old weights or go into quarantine. Raises EngineError."""
        if self._is_touched:
            await self._serving.set(None)
        await self.leave_group()
        await self._end_session()
        if not self._is_touched:
            await self._resume()
        elif not self._serving.is_paused:
            await self._pause("abort")

    async def leave_group(self) -> None:
        """Forget the group, so that the next push joins afresh."""
        if self._group is not None:
            name, self._group = self._group, None
            try:
                await self._engine.destroy_group(name)
            except EngineGone:
                raise
            except EngineError as error:  # the group may never have come into being
                logger.info("group %s: %s", name, error)

    async def _pause(self, mode: str) -> None:
        self._serving.note_pause()
        await self._engine.pause(mode)

    async def _resume(self) -> None:
        await self._engine.resume()
        self._serving.note_resume()

    async def _end_session(self) -> None:
        try:
            await self._engine.end_update()
        except EngineGone:
            raise
        except EngineError as error:  # there is none
            logger.debug("no session to end: %s", error)

    async def _join(self, group: GroupAddress, rank: int) -> None:
        if group.name == self._group:
            return
        await self.leave_group()
        await check_somebody_listens(group)
        self._group = group.name  # noted even if joining fails half-way
        await self._engine.init_group(
            name=group.name,
            host=group.host,
            port=group.port,
            rank=rank,
            world_size=group.world_size,
            backend=group.backend,
        )


async def check_somebody_listens(group: GroupAddress) -> None:
    """Check the learner's port before the engine is asked to join a group there.

    The engine would try a closed port until its timeout, and for twice as long where packets
    vanish, and would be taken for dead itself.

    Raises:
        EngineError: the learner that announced the group is gone, or this host is cut off.
    """
    where = f"{group.host}:{group.port}"
    try:
        async with asyncio.timeout(_KNOCK_S):
            _, writer = await asyncio.open_connection(group.host, group.port)
    except ConnectionRefusedError as error:
        raise EngineError(f"nothing listens at {where}: the learner is gone") from error
    except TimeoutError as error:
        raise EngineError(f"no answer from {where} within {_KNOCK_S:g} s: cut off?") from error
    except OSError:  # the engine may know a way
        return
    writer.close()


def weights_folder(config: RunConfig) -> Path | None:
    """Where the learner of this run writes weights; None means that they go through a group."""
    if config.weights.transport == "broadcast":
        return None
    if config.weights.folder is None and config.run.folder is not None:
        return config.run.folder / "weights"
    return config.weights.folder


def check_files(files: WeightFiles, folder: Path | None) -> None:
    """Check that files are this run's, and what the learner wrote. Raises VerificationFailed.

    Args:
        folder: the only place where they may be.
    """
    if folder is None or not Path(files.folder).resolve().is_relative_to(folder.resolve()):
        raise VerificationFailed(
            f"the announced weights in {files.folder} are not in this run's weights.folder "
            f"({folder}). Fix: give learner and rollout servers the same weights.transport and "
            "weights.folder"
        )
    for name, expected in files.sha256.items():
        path = Path(files.folder) / name
        try:
            found = sha256_of_file(path)
        except OSError as error:
            raise VerificationFailed(
                f"{path}: {error.strerror}. Fix: weights.folder must be a folder that learner and "
                "rollout servers share"
            ) from error
        if found != expected:
            raise VerificationFailed(f"{path} is not the file that the learner wrote")


async def follow_weights(
    broker: BrokerClient,
    receiver: WeightReceiver,
    serving: ServingState,
    finished: asyncio.Event,
) -> None:
    """Receive every push addressed to this member until the run is finished.

    Raises:
        EngineError: the engine does not answer any more, or got several pushes wrong.
    """
    seen = mismatches = 0
    while not finished.is_set():
        news = await broker.watch_weights(seen, _WATCH_S)
        if news.finished:
            finished.set()
        # A broker that came back counts anew: of what it has announced nothing was seen here.
        seen = news.serial if news.serial >= seen else 0
        if news.update is None or not receiver.is_addressee(news.update):
            continue
        try:
            await _receive(broker, receiver, news.update)
            mismatches = 0
        except PushFailed as failure:
            _report(news.update, failure)
            mismatches += isinstance(failure.__cause__, VerificationFailed)
            if mismatches >= _MAX_MISMATCHES:
                raise EngineError(f"{mismatches} pushes in a row went wrong: {failure}") from None


async def _receive(broker: BrokerClient, receiver: WeightReceiver, update: WeightUpdate) -> None:
    started = time.monotonic()
    with receiver.span("update", update):
        is_pinned = await receiver.receive(update)
        await broker.ack_weights(update.version, update.history, is_pinned)
    spans.flush()
    logger.info(
        "serving version %d after %.2f s (%d buckets)",
        update.version, time.monotonic() - started, len(update.buckets),
    )  # fmt: skip


def _report(update: WeightUpdate, failure: PushFailed) -> None:
    consequence = (
        "not serving until one succeeds" if failure.is_touched else "serving the weights before"
    )
    logger.error(
        "push of version %d (attempt %d) failed, %s: %s",
        update.version, update.attempt, consequence, failure,
    )  # fmt: skip


def _may_flush(update: WeightUpdate) -> bool:
    """Whether a flush is possible: in place, running requests keep their KV, and SGLang refuses."""
    return update.pause_mode != "in_place"
