"""The held-out samples of a run: what is measured on them, and which of them are shown."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from common.config import RunConfig
from common.dataset import read_answers, read_samples
from common.images import ImageStore
from common.rendering import Renderer
from common.views.settings import ViewSettings
from learner.measuring.evaluation import Accuracy, Evaluation
from learner.measuring.scenes import Scenes
from learner.trainer import Trainer
from learner.views.prompts import PromptPositions, PromptViews

logger = logging.getLogger(__name__)
_CACHE_BYTES = 2**28  # of views that are kept for the next measurement, if the samples are few


class Heldout:
    """Accuracy and scenes; both are empty when the run names no held-out file.

    Args:
        should_stop: asked between batches; true abandons a measurement.
        is_kept: false on ranks that only take part: they write no scenes.
        device: that the student computes on; none: where its weights are.
    """

    def __init__(
        self,
        config: RunConfig,
        positions: PromptPositions,
        should_stop: Callable[[], bool],
        is_kept: bool = True,
        device: torch.device | None = None,
    ) -> None:
        self._device = device
        self._config = config.evaluation
        self._should_stop = should_stop
        self._is_kept = is_kept
        self._evaluation: Evaluation | None = None
        self._scenes: Scenes | None = None
        if config.data.heldout is not None:
            self._open(config, positions)

    def measure_all(self, model: Any) -> Accuracy | None:
        """On all samples that evaluation.samples asks for."""
        return self._measure(model, self._config.samples)

    def measure_some(self, model: Any) -> Accuracy | None:
        return self._measure(model, self._config.interim_samples)

    def show(self, trainer: Trainer, when: str) -> None:
        """Write the scenes; `when` is "before" or "after"."""
        if self._scenes is not None:
            self._scenes.write(trainer, when)

    def _measure(self, model: Any, num_samples: int) -> Accuracy | None:
        if self._evaluation is None:
            return None
        return self._evaluation.measure(model, num_samples, self._should_stop)

    def _open(self, config: RunConfig, positions: PromptPositions) -> None:
        path, folder = config.data.heldout, config.run.folder
        assert path is not None and folder is not None
        samples, bad_rows = read_samples(path)
        for bad_row in bad_rows:
            logger.warning("left out: %s %s", path, bad_row)
        answers = read_answers(path)
        renderer = Renderer(config.model.path, config.prompt)
        settings = ViewSettings.of(config).measuring()
        views = PromptViews(renderer, ImageStore(path.parent), settings, positions, _CACHE_BYTES)
        self._evaluation = Evaluation(
            renderer,
            views,
            samples,
            answers,
            config.evaluation.max_response_tokens,
            self._device,
        )
        shown = samples[: config.evaluation.shown]
        self._scenes = Scenes(
            folder,
            shown,
            answers,
            path.parent,
            views,
            settings,
            renderer,
            self._evaluation,
            self._is_kept,
        )
