"""What the report shows of a dozen held-out scenes: RUN/scenes.json (see `learner.measuring`)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from common.files import replace_json
from common.full_disk import when_there_is_room
from common.rendering import Renderer
from common.types import Sample
from common.views.kinds.crop import region
from common.views.settings import ViewSettings
from learner.measuring.evaluation import Evaluation, question_of
from learner.ranks import Ranks
from learner.trainer import Trainer
from learner.views.inputs import PromptView
from learner.views.prompts import PromptViews

Json = dict[str, Any]
Responses = list[tuple[Any, Any] | None]  # full and crop, int64 [T] each; None without an answer


class Scenes:
    """The chosen samples, and what the student makes of them.

    Args:
        samples: the held-out samples to show.
        images: the folder that their image paths are relative to.
        views: student's view and the evidence crop.
        settings: how the crop is cut out.
        ranks: those that do not write only take part in the divergences.
    """

    def __init__(
        self,
        run_folder: Path,
        samples: Sequence[Sample],
        answers: dict[str, str],
        images: Path,
        views: PromptViews,
        settings: ViewSettings,
        renderer: Renderer,
        evaluation: Evaluation,
        ranks: Ranks,
    ) -> None:
        self._folder = run_folder
        self._samples = list(samples)
        self._answers = answers
        self._images = images
        self._views = views
        self._settings = settings
        self._renderer = renderer
        self._evaluation = evaluation
        self._ranks = ranks
        self._scenes: list[Json] = []

    def write(self, trainer: Trainer, when: str, responses: Responses) -> None:
        """Write what the student, as it is now, has answered; `when` is "before" or "after".

        Args:
            responses: for each of the samples, in their order.
        """
        asked = [
            (scene, *found, *ids)
            for scene, found, ids in zip(self._samples, self._rendered(), responses, strict=True)
            if found is not None and ids is not None
        ]
        if not asked:
            return
        samples, students, teachers, full, crop = map(list, zip(*asked, strict=True))
        divergences = trainer.token_divergences(students, teachers, full)  # takes all ranks
        if not self._ranks.writes:
            return
        if not self._scenes:
            self._scenes = [self._scene(i, sample) for i, sample in enumerate(samples)]
            self._recall_answers()
        by_name = {scene["sample_id"]: scene for scene in self._scenes}
        for sample, *answer in zip(samples, full, crop, divergences, strict=True):
            if sample.sample_id in by_name:
                by_name[sample.sample_id][when] = self._answers_of(trainer.version, sample, *answer)
        path = self._folder / "scenes.json"
        when_there_is_room(lambda: replace_json(path, {"scenes": self._scenes}), path)

    def _rendered(self) -> list[tuple[PromptView, PromptView] | None]:
        """Both views of each sample; None where one cannot be rendered."""
        students = self._views.students(self._samples)
        teachers = self._views.teachers(self._samples, [0] * len(self._samples))
        return [
            (student, teacher)
            if isinstance(student, PromptView) and isinstance(teacher, PromptView)
            else None
            for student, teacher in zip(students, teachers, strict=True)
        ]

    def _recall_answers(self) -> None:
        """Take over what an earlier learner of this run wrote before training."""
        path = self._folder / "scenes.json"
        if path.exists():
            written = json.loads(path.read_text(encoding="utf-8"))["scenes"]
            answers = {scene["sample_id"]: scene["before"] for scene in written}
            for scene in self._scenes:
                scene["before"] = answers.get(scene["sample_id"])

    def _scene(self, number: int, sample: Sample) -> Json:
        picture = self._views.teacher_picture(sample, 0)
        path = self._folder / "scenes" / f"{number:02d}-crop.png"
        when_there_is_room(lambda: _save(picture, path), path)
        return {
            "sample_id": sample.sample_id,
            "question": question_of(sample),
            "reference_answer": self._answers.get(sample.sample_id),
            "image": str((self._images / sample.image.path).absolute()),
            "image_size": [sample.image.width, sample.image.height],
            "box": _corners(sample.box),
            "crop_box": self._crop_box(sample),
            "crop": str(path.absolute()),
            "before": None,
            "after": None,
        }

    def _crop_box(self, sample: Sample) -> list[int] | None:
        if sample.crop is not None or sample.box is None:
            return None
        return _corners(region(sample, self._settings))

    def _answers_of(
        self, version: int, sample: Sample, full: Any, crop: Any, nats: Sequence[float]
    ) -> Json:
        return {
            "version": version,
            "full": {
                **self._evaluation.judged(sample, full),
                "tokens": self._tokens(full, nats),
            },
            "crop": self._evaluation.judged(sample, crop),
        }

    def _tokens(self, ids: Any, nats: Sequence[float]) -> list[Json]:
        texts = self._renderer.token_texts(ids)
        return [
            {"text": text, "divergence_nats": value}
            for text, value in zip(texts, nats, strict=True)
        ]


def _corners(box: Any) -> list[int] | None:
    return None if box is None else [box.x1, box.y1, box.x2, box.y2]


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
