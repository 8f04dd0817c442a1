"""Groups from the broker -> model inputs. What does not check out is refused; the run continues."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from common.config import RunConfig
from common.errors import DataError
from common.group import Group, Trajectory
from common.rendering import Renderer
from common.types import FinishReason, Sample
from common.views.registry import view_named
from common.views.settings import ViewSettings
from common.views.showing import derived_seed, record_of, shown_text
from learner.views.inputs import PreparedBatch, PreparedGroup, PromptView
from learner.views.prompts import Found, PromptViews
from learner.views.upcoming import UpcomingSamples

logger = logging.getLogger(__name__)
MAX_KNOWN_PROBLEMS = 4096


class Preparation:
    """What makes groups of the broker into batches: it renders views and checks trajectories.

    Args:
        vocabulary: number of token ids that the model knows.
        samples: of data.train as this process has read it, by sample_id.
        upcoming: the samples of the next steps, to be rendered ahead of need; None means none.

    Raises:
        ValueError: objective.token_weights needs a contrast view and `views` makes none.
    """

    def __init__(
        self,
        config: RunConfig,
        renderer: Renderer,
        views: PromptViews,
        vocabulary: int,
        samples: Mapping[str, Sample],
        upcoming: UpcomingSamples | None = None,
    ) -> None:
        if config.objective.token_weights == "visual_advantage" and not views.has_contrast:
            raise ValueError(
                "objective.token_weights = visual_advantage needs contrast views. "
                "Fix: make the views with learner.views.training.open_training_views"
            )
        self._config = config
        self._renderer = renderer
        self._views = views
        self._settings = ViewSettings.of(config)
        self._student_view = view_named(self._settings.student)
        self._vocabulary = vocabulary
        self._samples = samples
        self._upcoming = upcoming
        self._is_vision_token = np.zeros(vocabulary, dtype=bool)
        self._is_vision_token[renderer.vision_token_ids] = True
        self._prompt_ids: dict[str, np.ndarray] = {}

    def prepare(self, step: int, groups: Sequence[Group]) -> PreparedBatch:
        """The batch of step `step`, which trains version `step - 1` into version `step`."""
        prepared: list[PreparedGroup] = []
        refused = {g.group_id: _unknown(g) for g in groups if g.sample_id not in self._samples}
        known = [group for group in groups if group.group_id not in refused]
        seeds = [derived_seed(self._config.run.seed, group.group_id) for group in known]
        samples = [self._samples[group.sample_id] for group in known]
        students = self._views.students(samples, seeds)
        teachers = self._views.teachers(samples, seeds)
        contrasts: Sequence[Found | None] = [None] * len(known)
        if self._views.has_contrast:
            contrasts = self._views.contrasts(samples, seeds)
        views = zip(students, teachers, contrasts, strict=True)
        for group, sample, seed, of_sample in zip(known, samples, seeds, views, strict=True):
            try:
                prepared.append(self._group(step - 1, group, sample, seed, *of_sample))
            except DataError as error:
                refused[group.group_id] = str(error)[:500]
        for group_id, reason in refused.items():
            logger.warning("step %d: group %s refused: %s", step, group_id, reason)
        self.look_ahead(step, groups[-1].group_id if groups else None)
        return PreparedBatch(step, tuple(prepared), refused)

    def look_ahead(self, step: int, last_group_id: str | None = None) -> None:
        """Begin to render for the steps after `step`; the first time before any batch is taken.

        Returns at once; without render processes, or `upcoming`, it does nothing.
        """
        if self._upcoming is not None:
            window = self._upcoming.after(step, last_group_id)
            self._views.look_ahead(window.samples, window.seeds)

    def _group(
        self,
        version: int,
        group: Group,
        sample: Sample,
        seed: int,
        student: Found,
        teacher: Found,
        contrast: Found | None,
    ) -> PreparedGroup:
        staleness = tuple(self._staleness(version, t) for t in group.trajectories)
        for trajectory in group.trajectories:
            self._check_response(trajectory)
        if isinstance(student, DataError):
            raise student
        if isinstance(teacher, DataError):
            raise teacher
        if isinstance(contrast, DataError):
            raise contrast
        self._check_view(group, seed, student)
        self._check_prompt(group, sample, student)
        self._check_length(sample, teacher, "teacher")
        return PreparedGroup(
            group_id=group.group_id,
            sample_id=group.sample_id,
            student=student,
            teacher=teacher,
            contrast=contrast,
            responses=tuple(t.response_token_ids.astype(np.int64) for t in group.trajectories),
            rollout_logprobs=tuple(t.rollout_logprobs for t in group.trajectories),
            staleness=staleness,
            trajectories=group.trajectories,
        )

    def _staleness(self, version: int, trajectory: Trajectory) -> int:
        """Steps by which its oldest token lags `version`.

        Raises:
            DataError: too stale, or from weights that do not exist yet.
        """
        allowed = self._config.broker.max_staleness
        age = version - trajectory.oldest_version
        if age > allowed:
            raise DataError(
                f"trajectory {trajectory.index} is {age} steps stale, {allowed} are allowed"
            )
        if trajectory.newest_version > version:
            raise DataError(
                f"trajectory {trajectory.index} claims version {trajectory.newest_version}, "
                f"the learner is at {version}"
            )
        return age

    def _check_response(self, trajectory: Trajectory) -> None:
        ids = trajectory.response_token_ids
        if trajectory.finish_reason is FinishReason.ABORT:
            raise DataError(f"trajectory {trajectory.index} was aborted")
        if ids.min() < 0 or ids.max() >= self._vocabulary:
            raise DataError(
                f"trajectory {trajectory.index} holds token ids outside the vocabulary of "
                f"{self._vocabulary}: {ids.min()} to {ids.max()}"
            )
        if self._is_vision_token[ids].any():
            raise DataError(f"trajectory {trajectory.index} holds a vision token")

    def _check_view(self, group: Group, seed: int, view: PromptView) -> None:
        """Compare text and pixels: another view, seed, setting or file is another digest.

        Otherwise the student would be trained on a view that the responses do not answer.
        """
        ours = record_of(self._settings.student, self._settings, seed, view.sha256)
        if group.view != ours:
            raise DataError(
                f"the rollout saw another view than the learner: {group.view}, not {ours}. Fix: "
                "give both the same configuration (student.*, run.seed), data and packages"
            )

    def _check_prompt(self, group: Group, sample: Sample, view: PromptView) -> None:
        """Check that the engine saw what we render: else its log-probs are of another prompt."""
        ours = self._our_prompt_ids(shown_text(self._student_view, sample, self._settings))
        if not np.array_equal(ours, group.prompt_token_ids):
            raise DataError(
                f"prompt tokens differ from the learner's: {len(group.prompt_token_ids)} "
                f"instead of {len(ours)}, or other ids. Is it the same chat template?"
            )
        if group.num_prompt_tokens != view.num_tokens:
            raise DataError(
                f"the engine counted {group.num_prompt_tokens} prompt tokens, the learner "
                f"{view.num_tokens}. Is it the same image processor?"
            )
        self._check_length(sample, view, "student")

    def _our_prompt_ids(self, problem: str) -> np.ndarray:
        if problem not in self._prompt_ids:
            if len(self._prompt_ids) >= MAX_KNOWN_PROBLEMS:
                self._prompt_ids.clear()
            self._prompt_ids[problem] = self._renderer.prompt_token_ids(problem)
        return self._prompt_ids[problem]

    def _check_length(self, sample: Sample, view: PromptView, name: str) -> None:
        limit = self._config.model.max_prompt_tokens
        if view.num_tokens > limit:
            raise DataError(
                f"sample {sample.sample_id}: {name} prompt of {view.num_tokens} tokens is over "
                f"model.max_prompt_tokens = {limit}"
            )


def _unknown(group: Group) -> str:
    return (
        f"sample {group.sample_id} is not in this learner's data.train. Fix: give broker and "
        "learner the same data set"
    )
