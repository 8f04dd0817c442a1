"""Settings of an evaluation: what is asked, and how."""

from dataclasses import dataclass, field
from pathlib import Path

from common.config import TeacherSection
from rollout.evaluation.items import EvaluationSet, Labels, Style
from rollout.evaluation.questions import PixelLimits, View


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of one evaluation; all but the last two are part of its identity."""

    max_tokens: int  # limit of a reply
    prompt: Style = "paper"
    labels: Labels = "paper"
    view: View = "full"
    thinking: bool | None = None  # None means the endpoint's choice
    limits: PixelLimits = field(default_factory=PixelLimits)
    temperature: float = 0.0
    is_ours: bool = False  # we have started the server, with that thinking
    concurrency: int = 32


@dataclass(frozen=True)
class JudgeSettings:
    """The model that decides what the rules leave undecided."""

    model: str
    url: str | None = None  # None means that only stored verdicts count
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class EvaluationPlan:
    """What one call measures."""

    sets: tuple[EvaluationSet, ...]
    settings: EvaluationSettings
    judge: JudgeSettings | None = None
    source: Path | None = None  # folder with the sets' files; None means the hub
    limit: int = 0  # items of each set; 0 means all
    is_any_count: bool = False  # another number of rows than the published one will do
    teacher: TeacherSection = field(default_factory=TeacherSection)  # cuts crops from boxes
    needs_crops: bool = False  # items without one are left out, as they are of the view "crop"
    timeout_s: float = 1800.0  # time-out of one request
    tries: int = 8  # how often one question is tried
    first_pause_s: float = 1.0  # pause after the first failure; later ones double


@dataclass(frozen=True)
class Target:
    """The model that is asked."""

    url: str  # has the version in its path: http://127.0.0.1:30000/v1
    model: str
    key: str | None = field(default=None, repr=False)
    weights: str | None = None  # digest of a checkpoint's files
    context_tokens: int | None = None  # None means that the server does not say
