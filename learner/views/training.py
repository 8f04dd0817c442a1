"""The prompt views that a run trains on, with all that its options ask for."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from common.config import LearnerSection, RunConfig
from common.dataset import Answers, read_answers
from common.errors import ConfigError
from common.images import ImageStore
from common.rendering import Renderer
from common.views.registry import view_named
from common.views.settings import ViewSettings
from learner.views.pool import RenderPool
from learner.views.prompts import PromptPositions, PromptViews
from learner.views.worker import WorkerSetup


@contextmanager
def open_training_views(
    config: RunConfig, renderer: Renderer, positions: PromptPositions, processes: int = 0
) -> Iterator[PromptViews]:
    """Views of data.train; the render processes, if any, end with the context.

    Args:
        processes: how many; see `render_processes`.

    Raises:
        ConfigError, DataError: as `training_answers`.
    """
    assert config.data.train is not None
    folder = config.data.train.parent
    answers = training_answers(config)
    views = ViewSettings.of(config)
    is_weighted = config.objective.token_weights == "visual_advantage"
    contrast_pixels = config.objective.visual_advantage_pixels if is_weighted else None
    with ExitStack() as stack:
        pool: RenderPool | None = None
        if processes:
            setup = WorkerSetup(
                model_path=config.model.path,
                prompt=config.prompt,
                images=str(folder.absolute()),
                views=views,
                contrast_pixels=contrast_pixels,
            )
            pool = stack.enter_context(RenderPool(processes, setup))
        yield PromptViews(
            renderer,
            ImageStore(folder),
            views,
            positions,
            answers=answers,
            contrast_pixels=contrast_pixels,
            pool=pool,
            cache_bytes=config.learner.render_ahead_mib * 2**20,
        )


def render_processes(config: LearnerSection, device: torch.device) -> int:
    """Processes that render: as configured, or 4 beside a GPU, which must not wait for a CPU."""
    if config.render_processes is not None:
        return config.render_processes
    return 4 if device.type == "cuda" else 0


def training_answers(config: RunConfig) -> Answers:
    """READS LABELS FOR TRAINING, and only where teacher.view = "answer_hint"; else it is empty.

    This is the one place where labels come into training: that option (OPSD) shows the teacher the
    reference answer. Vision-OPD proper trains without them, and opens no answer column.

    Raises:
        ConfigError: the option is set and data.train holds no answer at all.
        DataError: the file cannot be read, or an answer is not text.
    """
    if not view_named(config.teacher.view).shows_answer:
        return Answers()
    assert config.data.train is not None
    answers = read_answers(config.data.train)
    if not answers:
        raise ConfigError(
            f"teacher.view = {config.teacher.view} needs answers, and data.train = "
            f"{config.data.train} holds none. Fix: fill its answer column, or choose a "
            "teacher.view that needs no label"
        )
    return answers
