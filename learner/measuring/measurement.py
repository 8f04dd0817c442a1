"""One measurement that rollout servers make while training goes on."""

import asyncio
import concurrent.futures
import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from broker.client import BrokerClient, RequestRefused
from broker.protocol import Answer, MeasurementNews
from common.errors import BrokerUnavailable, ProtocolError, VisionOpdError
from learner.measuring.evaluation import Accuracy, Evaluation, Questions

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
_READ_WAIT_S = 5.0  # how long the broker may hold the question
_GRACE_S = 30.0  # for servers to tell a broker that was restarted what they keep


class CopyLost(VisionOpdError):
    """No server has the weights any more."""


class Line(Protocol):
    """How requests reach the broker (`learner.feed.Feed`)."""

    @property
    def history(self) -> int: ...

    def begin(
        self, request: Callable[[BrokerClient], Awaitable[Result]]
    ) -> "concurrent.futures.Future[Result]": ...


class Measurement:
    """One measurement, from its order to the accuracy.

    Args:
        version: of the weights that are to answer.
        max_tokens: of an answer.
        is_last: nothing is trained beside it.
        timeout_s: seconds after which it is given up.
        grace_s: seconds after which it is given up while no server has the weights.
    """

    def __init__(
        self,
        line: Line,
        evaluation: Evaluation,
        questions: Questions,
        version: int,
        *,
        max_tokens: int,
        is_last: bool,
        timeout_s: float,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._evaluation = evaluation
        self.questions = questions
        self.version = version
        self._max_tokens = max_tokens
        self._is_last = is_last
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._number = secrets.randbits(63)
        self._changed = threading.Condition()
        self._answers: dict[int, Answer] = {}
        self._is_pinned = False
        self._is_replaced = False
        self._began = time.monotonic()
        self.seconds = 0.0  # from the order to the last answer
        self._history = line.history
        self._future = line.begin(self._collect)
        self._future.add_done_callback(lambda _: self._tell())

    # ---- main thread -----------------------------------------------------------------------------
    @property
    def is_over(self) -> bool:
        return self._future.done()

    @property
    def allows_push(self) -> bool:
        """Whether the weights that it asks about may be replaced."""
        return self._is_pinned or self.is_over

    @property
    def has_shown(self) -> bool:
        """Whether all samples that are shown are answered, or never will be."""
        return self.is_over or all(item in self._answers for item in self.questions.shown_items)

    @property
    def answers(self) -> Mapping[int, Answer]:
        return dict(self._answers)

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for one of the properties above; false if not within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(until, timeout_s)

    def accuracy(self) -> Accuracy | None:
        """The accuracy, once it is over; None, and a line in the log, without all answers."""
        try:
            return self._future.result(0)
        except (TimeoutError, ProtocolError, BrokerUnavailable, CopyLost) as error:
            reason = str(error) or (
                f"{len(self._answers)} of {self.questions.num_items} answers came within "
                f"{self._timeout_s:g} s (evaluation.timeout_s)"
            )
            logger.warning("version %d is not measured: %s", self.version, reason)
        except concurrent.futures.CancelledError:  # the run ends
            logger.info("version %d is not measured: the run ends", self.version)
        return None

    def note_replaced(self) -> None:
        """Note that later weights are pushed: from now on only copies can answer."""
        self._is_replaced = True

    def abandon(self) -> None:
        self._future.cancel()

    # ---- broker's thread -------------------------------------------------------------------------
    async def _collect(self, broker: BrokerClient) -> Accuracy | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._read_all(broker)
        except (TimeoutError, CopyLost):
            await broker.drop_measurement(self._number)
            raise
        self.seconds = time.monotonic() - self._began
        await broker.drop_measurement(self._number)
        return await asyncio.to_thread(
            self._evaluation.accuracy, self.questions, self._answers, self.version
        )

    async def _read_all(self, broker: BrokerClient) -> None:
        await self._order(broker)
        seen, kept_at = 0, time.monotonic()
        while len(self._answers) < self.questions.num_items:
            try:
                news = await broker.read_measurement(
                    self._number, seen, self._is_pinned, _READ_WAIT_S
                )
            except RequestRefused as error:
                if error.code != "unknown_measurement":
                    raise
                logger.warning("the broker has forgotten the measurement of %d", self.version)
                await self._order(broker)
                seen = 0
                continue
            seen += len(news.answers)
            self._take(news)
            now = time.monotonic()
            if self._is_kept:
                kept_at = now
            elif now - kept_at > self._grace_s:
                raise CopyLost("the servers that kept a copy of its weights are gone")

    @property
    def _is_kept(self) -> bool:
        """Whether a server has the weights, or will have them."""
        return self._is_pinned or not self._is_replaced

    async def _order(self, broker: BrokerClient) -> None:
        await broker.order_measurement(
            self._number,
            self._history,
            self.version,
            [sample.sample_id for sample in self.questions.samples],
            num_urgent=self.questions.num_shown,
            max_tokens=self._max_tokens,
            is_last=self._is_last,
        )

    def _take(self, news: MeasurementNews) -> None:
        for answer in news.answers:
            self._answers.setdefault(answer.index, answer)
        self._is_pinned = news.is_pinned
        self._tell()

    def _tell(self) -> Any:
        with self._changed:
            self._changed.notify_all()
