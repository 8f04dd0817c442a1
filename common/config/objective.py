"""Sections of what is learned: the objective, and what student and teacher are shown."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from common.section import Section

if TYPE_CHECKING:
    from common.config.tree import RunConfig


DivergenceName = Literal["jsd", "forward_kl", "reverse_kl", "sampled_reverse_kl"]
TeacherPolicyName = Literal["ema", "frozen", "current", "progressive", "trust_region", "fixed"]


class ObjectiveSection(Section):
    divergence: DivergenceName = Field(
        "jsd",
        description="forward_kl = KL(teacher|student), reverse_kl = KL(student|teacher); "
        "sampled_reverse_kl estimates the latter at the sampled token alone.",
    )
    jsd_teacher_weight: float = Field(
        0.5, gt=0, lt=1, description="Teacher's share in the mixture (the paper's beta)."
    )
    top_k: int | None = Field(
        100, gt=0, description="Student's likeliest tokens that are compared; none: all tokens."
    )
    tail: bool = Field(True, description="A bucket for all other tokens; false: renormalise.")
    importance_clip: float | None = Field(
        2.0, gt=0, description="Upper truncation of student/rollout ratios; none: no weights."
    )
    aggregation: Literal["sequence_mean", "token_mean", "micro_batch_mean"] = Field(
        "sequence_mean",
        description="Mean over sequences of token means, or over all tokens; micro_batch_mean as "
        "published: it depends on how sequences were packed.",
    )
    token_weights: Literal["none", "visual_advantage"] = Field(
        "none",
        description="visual_advantage: more weight where the teacher's picture matters (VA-OPD).",
    )
    visual_advantage_share: float = Field(
        0.2, gt=0, lt=1, description="Share of a response's tokens that count as visual."
    )
    visual_advantage_mass: float = Field(
        0.5, gt=0, lt=1, description="Share of a response's weight that those tokens get."
    )
    visual_advantage_pixels: int = Field(
        16,
        gt=1,
        description="Side of a block when the teacher's picture is pixelated for contrast.",
    )


class StudentSection(Section):
    """View of the student, in training and on the rollout servers alike (common.views)."""

    view: str = Field(
        "full",
        description="full; red_box: with a red line round the evidence; degraded: made worse at "
        "random, for a teacher that sees it as it is (S2VOPD: needs no box).",
    )
    hint: str = Field(
        "",
        description="Text after every question in training, for the teacher too. (The published "
        "set has its sentence about the red box in the questions.)",
    )
    red_box_pixels: int = Field(4, gt=0, le=100, description="Width of the red line (red_box).")
    degradations: tuple[str, ...] = Field(
        ("shrink", "blur", "noise", "jpeg", "erase"),
        min_length=1,
        description="One of these is drawn for each group (degraded).",
    )
    degradation_strength: float = Field(
        0.5, gt=0, le=1, description="How much of the picture is lost, at most (degraded)."
    )

    @field_validator("view")
    @classmethod
    def _view_is_known(cls, name: str) -> str:
        return _known_view(name, "student")

    @field_validator("degradations")
    @classmethod
    def _degradations_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from common.views.degradations import DEGRADATIONS

        for name in names:
            if name not in DEGRADATIONS:
                known = ", ".join(DEGRADATIONS)
                raise ValueError(f"there is no degradation {name!r}. Fix: choose of {known}")
        return names


@dataclass(frozen=True)
class TeacherPolicy:
    """What a policy is, for all that depends on it: learner, checkpoints, planner and help."""

    meaning: str  # its weights, in words
    weights: Literal["copy", "student", "model"]  # a copy of the start, the student, another model
    after_step: Literal["nothing", "average", "copy"]  # how they follow the student
    has_float32: bool  # beside a copy in bfloat16, which would round its moves away
    is_mixed: bool  # the student's logits are added to its own, so that two models score


TEACHER_POLICIES: dict[TeacherPolicyName, TeacherPolicy] = {
    "ema": TeacherPolicy("moving average", "copy", "average", has_float32=True, is_mixed=False),
    "frozen": TeacherPolicy("start", "copy", "nothing", has_float32=False, is_mixed=False),
    "current": TeacherPolicy(
        "the student (which collapses)", "student", "nothing", has_float32=False, is_mixed=False
    ),
    "progressive": TeacherPolicy(
        "a copy every interval_steps", "copy", "copy", has_float32=False, is_mixed=False
    ),
    "trust_region": TeacherPolicy(
        "start, mixed with the student", "copy", "nothing", has_float32=False, is_mixed=True
    ),
    "fixed": TeacherPolicy("that of path", "model", "nothing", has_float32=False, is_mixed=False),
}


class TeacherSection(Section):
    policy: TeacherPolicyName = Field(
        "ema",
        description="Weights of the teacher. "
        + "; ".join(f"{name}: {policy.meaning}" for name, policy in TEACHER_POLICIES.items()),
    )
    path: str | None = Field(
        None, description="Hugging Face folder or name of the model of policy = fixed."
    )
    revision: str | None = Field(
        None, min_length=1, description="Of teacher.path, as model.revision is of model.path."
    )
    interval_steps: int = Field(10, gt=0, description="Steps between copies (progressive).")
    student_share: float = Field(
        0.05, ge=0, le=1, description="Student's share in the teacher's logits (trust_region)."
    )
    offload: bool = Field(
        False, description="Keep the float32 average in main memory, not on the GPU."
    )
    ema_rate: float = Field(
        0.05, ge=0, le=1, description="teacher = (1 - rate) * teacher + rate * student, a step."
    )
    view: str = Field(
        "crop",
        description="What the teacher is shown (common.views): crop; full and random_crop, which "
        "are controls; answer_hint: the full image with the reference answer in the text (OPSD; "
        "needs answers); box_text: the full image with the evidence's place in words (Where-OPD).",
    )
    answer_hint: str = Field(
        "\n\nHere is a reference answer:\n{answer}\n\n"
        "After understanding it, answer in your own way.",
        description="Text after the question (view = answer_hint); {answer} is filled in.",
    )
    box_text: str = Field(
        "\n\nThe part of the picture to look at is the box [{x1}, {y1}, {x2}, {y2}].",
        description="Text after the question (view = box_text); {x1}, {y1}, {x2} and {y2} are "
        "filled in, in thousandths of the picture's sides.",
    )
    crop_margin: float = Field(
        0.0, ge=0, description="Context kept round the box on each side, in box widths/heights."
    )
    crop_scale: float = Field(
        2.0, gt=0, description="Enlargement of a crop cut from the box (ready crops have it)."
    )

    @property
    def traits(self) -> TeacherPolicy:
        """What `policy` is; an average with rate 0 stays where it is, and so is frozen."""
        is_still = self.policy == "ema" and self.ema_rate == 0
        return TEACHER_POLICIES["frozen" if is_still else self.policy]

    @field_validator("view")
    @classmethod
    def _view_is_known(cls, name: str) -> str:
        return _known_view(name, "teacher")


def _known_view(name: str, role: Literal["student", "teacher"]) -> str:
    from common.errors import ConfigError
    from common.views.registry import view_named  # it imports Pillow, which not all need

    try:
        view_named(name, role)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


def _fixed_teacher_has_a_model(config: "RunConfig") -> None:
    if config.teacher.traits.weights == "model" and config.teacher.path is None:
        raise ValueError(
            f"teacher.policy = {config.teacher.policy} needs teacher.path. "
            "Fix: name a Hugging Face folder, or set teacher.policy = ema"
        )


def _answer_has_its_place(config: "RunConfig") -> None:
    if "{answer}" not in config.teacher.answer_hint:
        raise ValueError("teacher.answer_hint lacks {answer}. Fix: put it where the answer belongs")


def _teacher_is_not_the_student(config: "RunConfig") -> None:
    teacher = config.teacher
    if teacher.view == config.student.view and teacher.traits.weights == "student":
        raise ValueError(
            f"teacher.policy = {teacher.policy} with teacher.view = {teacher.view} compares the "
            "student with itself. Fix: choose another policy or view"
        )


CHECKS = (_fixed_teacher_has_a_model, _answer_has_its_place, _teacher_is_not_the_student)
