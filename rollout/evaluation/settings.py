"""What is asked, and how."""

from dataclasses import dataclass, field
from typing import Literal

from rollout.evaluation.questions import PixelLimits, View

PromptStyle = Literal["paper", "lmms"]
Labels = Literal["paper", "corrected"]


@dataclass(frozen=True)
class Settings:
    """Of one evaluation; all but `concurrency` are part of its identity."""

    max_tokens: int  # of a reply
    prompt: PromptStyle = "paper"
    labels: Labels = "paper"
    view: View = "full"
    thinking: bool | None = None  # None: the endpoint's choice
    limits: PixelLimits = field(default_factory=PixelLimits)
    temperature: float = 0.0
    concurrency: int = 32
