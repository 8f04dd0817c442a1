"""The held-out samples of a run: what is measured on them, when, and which of them are shown.

Every rank has a `Heldout` and all take the same way; rank 0 orders, and tells the others.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from broker.protocol import Answer
from common.config import RunConfig
from common.dataset import read_answers, read_samples
from common.images import ImageStore
from common.rendering import Renderer
from common.views.settings import ViewSettings
from learner.figures.metrics import MetricsLog
from learner.measuring.evaluation import Accuracy, Evaluation
from learner.measuring.items import ItemFiles
from learner.measuring.measurement import Line, Measurement
from learner.measuring.scenes import Responses, Scenes
from learner.push.pusher import Pusher
from learner.ranks import Ranks
from learner.trainer import Trainer
from learner.views.prompts import PromptPositions, PromptViews

logger = logging.getLogger(__name__)
When = Literal["before", "between", "after"]
_CACHE_BYTES = 2**28  # room for the views that are shown
_LOOK_S = 0.5  # between looks for the end of the run, while waiting
_PUSH_AGAIN_S = 5.0  # between looks for servers without weights, while waiting


@dataclass
class _UnderWay:
    """A measurement that is not over; every rank has the same, but for `measurement`."""

    version: int
    when: When
    measurement: Measurement | None  # on rank 0 alone
    waited_s: float = 0.0  # seconds that training stood still for it


@dataclass(frozen=True)
class Measured:
    """A measurement that is over."""

    version: int
    when: When
    accuracy: Accuracy | None  # None when too few answers came in time
    waited_s: float  # seconds that training stood still for it
    seconds: float  # from the order to the last answer

    @property
    def score(self) -> float | None:
        """The accuracy on full images, by which checkpoints are kept; None without answers."""
        return None if self.accuracy is None else self.accuracy.full


class Heldout:
    """Measurements on the held-out samples; none when the run names no held-out file.

    Args:
        is_over: whether the run is over; asked now and then while waiting.
        step: that the run goes on from.
        pusher: brings weights to servers that have lost them, while training waits for servers.
    """

    def __init__(
        self,
        config: RunConfig,
        line: Line,
        positions: PromptPositions,
        ranks: Ranks,
        is_over: Callable[[], bool],
        pusher: Pusher,
        step: int,
    ) -> None:
        self._pusher = pusher
        self._config = config.evaluation
        self._line = line
        self._ranks = ranks
        self._is_over = is_over
        self._under_way: deque[_UnderWay] = deque()
        self._evaluation: Evaluation | None = None
        self._scenes: Scenes | None = None
        self.before: Accuracy | None = None  # training; None until it is measured
        self.after: Accuracy | None = None  # the last step; None until it is measured
        if config.data.heldout is not None:
            self._open(config, positions, step)

    @property
    def is_measured(self) -> bool:
        """Whether there is anything to measure on."""
        return self._evaluation is not None and bool(self._evaluation.samples)

    def recall(self, log: MetricsLog, total_steps: int) -> None:
        """Take over what an earlier learner of this run has had measured."""
        if (row := log.measured_at(0)) is not None:
            self.before = Accuracy.of_row(row)
        if (row := log.measured_at(total_steps)) is not None:
            self.after = Accuracy.of_row(row)

    def is_due(self, version: int) -> bool:
        """Whether these weights are measured while training goes on; all ranks call it."""
        if not self.is_measured:
            return False
        if version == 0:  # once a run, however often its learner is started
            return self._ranks.any(self._ranks.writes and self.before is None)
        every = self._config.every_steps
        return bool(every) and version % every == 0

    def order(self, version: int, when: When) -> None:
        """Have the weights of `version` measured, which are being pushed."""
        assert self._evaluation is not None
        measurement = None
        if self._ranks.writes:
            is_between = when == "between"
            number = self._config.interim_samples if is_between else self._config.samples
            questions = self._evaluation.questions(number, 0 if is_between else self._config.shown)
            measurement = Measurement(
                self._line,
                self._evaluation,
                questions,
                version,
                max_tokens=self._config.max_response_tokens,
                is_last=when == "after",
                timeout_s=self._config.timeout_s,
            )
        self._under_way.append(_UnderWay(version, when, measurement))

    def wait_for_push(self, is_measured: bool) -> float:
        """Wait until the weights may be replaced, or the run is over.

        Args:
            is_measured: the next weights are measured, too. Servers keep two versions at most.

        Returns:
            The seconds that it took.
        """
        older = list(self._under_way)[:-1] if is_measured else []
        waited_s = sum(self._wait(one, lambda m: m.is_over) for one in older)
        return waited_s + sum(self._wait(one, lambda m: m.allows_push) for one in self._under_way)

    def note_push(self, version: int) -> None:
        """Note that these weights replace those that are being measured."""
        for one in self._under_way:
            if one.measurement is not None and one.version != version:
                one.measurement.note_replaced()

    def take(self, only: When | None = None) -> list[Measured]:
        """Take the measurements that are over by now, in their order.

        Args:
            only: take those of that kind, up to the first of another; None means all.
        """
        found: list[Measured] = []
        while self._under_way and only in (None, self._under_way[0].when):
            measurement = self._under_way[0].measurement
            if not self._ranks.any(measurement is not None and measurement.is_over):
                break
            found.append(self._agreed(self._under_way.popleft()))
            self._keep(found[-1])
        return found

    def _keep(self, measured: Measured) -> None:
        if measured.accuracy is not None and measured.when == "before":
            self.before = measured.accuracy
        elif measured.accuracy is not None and measured.when == "after":
            self.after = measured.accuracy

    def wait_for(self, when: When) -> None:
        """Wait until none of that kind is under way, or the run is over."""
        for one in self._under_way:
            if one.when == when:
                self._wait(one, lambda m: m.is_over)

    def abandon(self) -> None:
        """Give up all measurements under way."""
        for one in self._under_way:
            if one.measurement is not None:
                one.measurement.abandon()

    def show(self, trainer: Trainer, when: When) -> None:
        """Write the scenes of the measurement under way, if it is of the weights as they are."""
        one = next((one for one in self._under_way if one.when == when), None)
        if self._scenes is None or one is None or one.version != trainer.version:
            return
        self._wait(one, lambda m: m.has_shown)
        began = time.monotonic()
        self._scenes.write(trainer, when, self._shown(one))
        one.waited_s += time.monotonic() - began

    # ---- the ranks agree -------------------------------------------------------------------------
    def _wait(self, one: _UnderWay, until: Callable[[Measurement], bool]) -> float:
        """Wait on all ranks together, so that none stays in a collective for long."""
        began, measurement = time.monotonic(), one.measurement
        is_waiting, looked_at = True, began
        while is_waiting:
            mine = False
            if measurement is not None and not self._is_over():
                mine = not measurement.wait(lambda: until(measurement), _LOOK_S)
            if mine and time.monotonic() - looked_at > _PUSH_AGAIN_S:
                self._pusher.push_again_if_behind()
                looked_at = time.monotonic()
            is_waiting = self._ranks.any(mine)
        waited_s = time.monotonic() - began
        one.waited_s += waited_s
        return waited_s

    def _agreed(self, one: _UnderWay) -> Measured:
        """The figures of rank 0, on all ranks."""
        accuracy = None if one.measurement is None else one.measurement.accuracy()
        seconds = 0.0 if one.measurement is None else one.measurement.seconds
        measured = Measured(one.version, one.when, accuracy, one.waited_s, seconds)
        if self._ranks.world_size == 1:
            return measured
        a = accuracy or Accuracy(0, 0, 0)
        figures = (a.full, a.crop, a.samples, a.full_cut, a.crop_cut)
        full, crop, samples, full_cut, crop_cut = self._ranks.sum(figures)
        agreed = Accuracy(full, crop, int(samples), full_cut, crop_cut, one.version)
        return replace(measured, accuracy=agreed if samples else None)

    def _shown(self, one: _UnderWay) -> Responses:
        """Answers to the samples that are shown, on all ranks; None for one without both."""
        measurement, shown = one.measurement, self._num_shown
        found: Responses = [None] * shown
        if measurement is not None:
            answers = measurement.answers
            pairs = (measurement.questions.pair(number, answers) for number in range(shown))
            found = [None if pair is None else (_ids(pair[0]), _ids(pair[1])) for pair in pairs]
        return found if self._ranks.world_size == 1 else self._from_first(found)

    def _from_first(self, responses: Responses) -> Responses:
        """The answers of rank 0, as sums of lengths and tokens, since others have none."""
        width = self._config.max_response_tokens + 1
        rows = np.zeros((len(responses), 2, width))
        for row, pair in zip(rows, responses, strict=True):
            for place, ids in zip(row, pair or (), strict=False):
                place[: len(ids) + 1] = [len(ids), *ids]
        sums = np.asarray(self._ranks.sum(rows.ravel().tolist())).astype(np.int64)
        found: Responses = []
        for full, crop in sums.reshape(rows.shape):
            is_there = full[0] > 0 and crop[0] > 0
            pair = (full[1 : full[0] + 1], crop[1 : crop[0] + 1])
            found.append(pair if is_there else None)
        return found

    def _open(self, config: RunConfig, positions: PromptPositions, step: int) -> None:
        path, folder = config.data.heldout, config.run.folder
        assert path is not None and folder is not None
        samples, bad_rows = read_samples(path)
        for bad_row in bad_rows:
            logger.warning("left out: %s %s", path, bad_row)
        shown = samples[: config.evaluation.shown]
        self._num_shown = len(shown)
        renderer = Renderer(config.model.path, config.prompt)
        settings = ViewSettings.of(config).measuring()
        views = PromptViews(renderer, ImageStore(path.parent), settings, positions, _CACHE_BYTES)
        answers = read_answers(path)
        files = ItemFiles(folder, step, path) if self._ranks.writes else None
        self._evaluation = Evaluation(renderer, samples, answers, files)
        self._scenes = Scenes(
            folder,
            shown,
            answers,
            path.parent,
            views,
            settings,
            renderer,
            self._evaluation,
            self._ranks,
        )


def _ids(answer: Answer) -> Any:
    """The answer's token ids as int64 [T], as the learner computes with them."""
    return answer.token_ids.astype(np.int64)
