"""What decides how views look, apart from the sample and the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.types import Record

if TYPE_CHECKING:
    from common.config import RunConfig


class ViewSettings(Record):
    """The settings of a run's views; they also travel to the processes that render."""

    student: str  # name of the view
    teacher: str
    hint: str  # after the question, for both
    red_box_pixels: int  # width of the line
    degradations: tuple[str, ...]
    degradation_strength: float
    answer_hint: str
    box_text: str
    crop_margin: float  # of the box's sides, on each side
    crop_scale: float

    @classmethod
    def of(cls, config: RunConfig) -> ViewSettings:
        student, teacher = config.student, config.teacher
        return cls(
            student=student.view,
            teacher=teacher.view,
            hint=student.hint,
            red_box_pixels=student.red_box_pixels,
            degradations=student.degradations,
            degradation_strength=student.degradation_strength,
            answer_hint=teacher.answer_hint,
            box_text=teacher.box_text,
            crop_margin=teacher.crop_margin,
            crop_scale=teacher.crop_scale,
        )

    def measuring(self) -> ViewSettings:
        """Settings of held-out accuracy, whatever is trained on: full picture, crop, no hint."""
        return self.model_copy(update={"student": "full", "teacher": "crop", "hint": ""})
