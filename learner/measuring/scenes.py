"""What the report shows of a dozen held-out scenes: RUN/scenes.json and RUN/scenes/*.png.

Written after the first measurement ("after" is null then) and again, whole, after the last, with
the first answers as they stand in the file:

    {"scenes": [{
        "sample_id": str,
        "question": str,                        without the "<image>" placeholder
        "reference_answer": str | null,
        "image": str,                           absolute path of the full image
        "image_size": [width, height],          pixels
        "box": [x1, y1, x2, y2] | null,         the evidence in the full image
        "crop_box": [x1, y1, x2, y2] | null,    the part that the crop view shows; null: ready crop
        "crop": str,                            absolute path of the crop view, a PNG
        "before": ANSWERS,
        "after": ANSWERS | null                 null: not measured (yet), or interrupted
    }, ...]}

    ANSWERS = {
        "version": int,                         of the student that answered
        "full": {"text": str, "is_correct": bool | null,
                 "tokens": [{"text": str, "divergence_nats": float}, ...]},
        "crop": {"text": str, "is_correct": bool | null}
    }

`divergence_nats` compares the student on the full image with the teacher on the crop, token by
token of the student's own greedy answer, with the divergence that is trained on. The last token is
usually the end-of-turn token. `is_correct` is null where there is no reference answer.
"""

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
from common.views.texts import IMAGE_PLACEHOLDER
from learner.measuring.evaluation import Evaluation, Window
from learner.trainer import Trainer
from learner.views.prompts import PromptViews

Json = dict[str, Any]


class Scenes:
    """Keeps the chosen samples and writes what the student makes of them.

    Args:
        samples: the held-out samples to show.
        images: the folder that their image paths are relative to.
        views: student's view and the evidence crop.
        settings: how the crop is cut out.
        is_kept: false on ranks that only take part in the answers.
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
        is_kept: bool = True,
    ) -> None:
        self._folder = run_folder
        self._samples = list(samples)
        self._answers = answers
        self._images = images
        self._views = views
        self._settings = settings
        self._renderer = renderer
        self._evaluation = evaluation
        self._is_kept = is_kept
        self._scenes: list[Json] = []

    def write(self, trainer: Trainer, when: str) -> None:
        """Answer every scene with the student as it is now; `when` is "before" or "after"."""
        if not self._scenes:
            windows = self._evaluation.windows(self._samples)
            self._samples = [sample for window in windows for sample in window.samples]
        if not self._samples:
            return
        if not self._is_kept:
            self._answer(trainer)
            return
        if not self._scenes:
            self._scenes = [self._scene(i, sample) for i, sample in enumerate(self._samples)]
            self._recall_answers()
        for scene, answers in zip(self._scenes, self._answer(trainer), strict=True):
            scene[when] = answers
        path = self._folder / "scenes.json"
        when_there_is_room(lambda: replace_json(path, {"scenes": self._scenes}), path)

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
            "question": sample.problem.replace(IMAGE_PLACEHOLDER, "").strip(),
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

    def _answer(self, trainer: Trainer) -> list[Json]:
        windows = self._evaluation.windows(self._samples)
        return [answers for window in windows for answers in self._answer_window(trainer, window)]

    def _answer_window(self, trainer: Trainer, window: Window) -> list[Json]:
        full_ids = self._evaluation.responses(trainer.model, window.full)
        crop_ids = self._evaluation.responses(trainer.model, window.crop)
        assert full_ids is not None and crop_ids is not None  # nothing asked them to stop
        divergences = trainer.token_divergences(window.full, window.crop, full_ids)
        rows = zip(window.samples, full_ids, crop_ids, divergences, strict=True)
        return [
            {
                "version": trainer.version,
                "full": {**self._text(sample, ids), "tokens": self._tokens(ids, nats)},
                "crop": self._text(sample, ids_of_crop),
            }
            for sample, ids, ids_of_crop, nats in rows
        ]

    def _text(self, sample: Sample, ids: Any) -> Json:
        is_known = sample.sample_id in self._answers
        correct = self._evaluation.is_correct(sample, ids) if is_known else None
        return {"text": self._renderer.decode(ids), "is_correct": correct}

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
