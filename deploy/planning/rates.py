"""How long everything in a run takes: the planner's only view of machines and models.

A rate says whether it was measured or assumed, and from what. JSON in and out:

    {"format": 2, "ranks": 1, ..., "rates": {"vision_s": {"value": 0.23, "source": "measured",
     "note": "..."}, ...}}
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from common.errors import ConfigError
from common.files import replace_json

Source = Literal["measured", "assumed"]
FORMAT = 2


@dataclass(frozen=True)
class Rate:
    value: float
    source: Source
    note: str = ""  # what it was measured or assumed from

    def times(self, factor: float) -> "Rate":
        return replace(self, value=self.value * factor)


@dataclass(frozen=True)
class Rates:
    """How many seconds each part of a run takes.

    The learner's are those of a whole step on `ranks` ranks, of which `shards` hold one copy of the
    model between them.

    A server that has c groups in flight finishes each of them `group_alone_s + c *
    group_shared_s` seconds after its start: the first is what a group takes by itself (its tokens
    come one after the other), the second what it takes from all others.
    """

    machines: str  # kind of device that one process computes on
    ranks: int
    shards: int
    groups_per_step: int
    prompt_tokens: int
    response_tokens: float  # mean of a response
    spread: tuple[float, ...]  # groups' work relative to its mean, drawn in turn
    group_alone_s: Rate
    group_shared_s: Rate
    vision_s: Rate  # forward pass of the student's vision tower
    student_s: Rate  # forward pass of the student's decoder
    objective_s: Rate
    backward_s: Rate
    teacher_s: Rate
    optimizer_s: Rate
    teacher_update_s: Rate
    other_s: Rate  # what of a step is in no other part
    stall_s: Rate  # how long a push holds up the learner
    prepare_s: Rate  # from the moment that a batch is complete until a step can begin with it
    push_s: Rate  # from a step's end until the servers serve its weights
    pause_s: Rate  # how long servers stand still in a push
    evaluation_sample_s: Rate  # one held-out sample, both views
    checkpoint_s: Rate  # how long a checkpoint holds up the learner
    startup_s: Rate  # from the learner's start to the first push

    def step_s(self) -> float:
        """Seconds of one step of the learner, without waiting."""
        return sum(self.of(part.rate).value for part in STEP_PARTS) + self.other_s.value

    def of(self, name: str) -> Rate:
        rate = getattr(self, name)
        assert isinstance(rate, Rate), name
        return rate

    def named(self) -> dict[str, Rate]:
        return {name: self.of(name) for name in RATE_NAMES}

    def for_ranks(self, ranks: int, shards: int) -> "Rates":
        """The same machines and model with another number of ranks.

        What is done group by group goes with the groups of the busiest rank; what is done weight by
        weight goes with the part of the model that a rank holds (`learner.shard_ranks`).

        Args:
            shards: ranks that hold one copy of the model between them.
        """
        share = math.ceil(self.groups_per_step / ranks) / math.ceil(
            self.groups_per_step / self.ranks
        )
        scaled: dict[str, Any] = {p.rate: self.of(p.rate).times(share) for p in GROUP_PARTS}
        scaled |= {p.rate: self.of(p.rate).times(self.shards / shards) for p in WEIGHT_PARTS}
        scaled["prepare_s"] = self.prepare_s.times(share)
        return replace(self, ranks=ranks, shards=shards, **scaled)


class Part(NamedTuple):
    """A part of the learner's step."""

    rate: str  # its field of `Rates`
    name: str  # for people
    metric: str  # in metrics.jsonl


GROUP_PARTS = (  # what is done group by group
    Part("vision_s", "vision", "time/vision_s"),
    Part("student_s", "student forward", "time/student_forward_s"),
    Part("objective_s", "objective", "time/objective_s"),
    Part("backward_s", "backward", "time/backward_s"),
    Part("teacher_s", "teacher", "time/teacher_forward_s"),
)
WEIGHT_PARTS = (  # weight by weight
    Part("optimizer_s", "optimizer", "time/optimizer_s"),
    Part("teacher_update_s", "teacher update", "time/teacher_update_s"),
)
WORK_PARTS = (*GROUP_PARTS, *WEIGHT_PARTS)
STEP_PARTS = (*WORK_PARTS, Part("stall_s", "push stall", "sync/stall_s"))
RATE_NAMES = tuple(field.name for field in fields(Rates) if field.type in (Rate, "Rate"))
_PLAIN = (
    "machines", "ranks", "shards", "groups_per_step", "prompt_tokens", "response_tokens", "spread",
)  # fmt: skip


def to_json(rates: Rates) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **{name: getattr(rates, name) for name in _PLAIN},
        "rates": {name: vars(rate) for name, rate in rates.named().items()},
    }


def from_json(content: Mapping[str, Any], where: str) -> Rates:
    """Rates from JSON; ConfigError if it is not what `to_json` gave."""
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, not {FORMAT}")
        plain = {name: content[name] for name in _PLAIN}
        plain["spread"] = tuple(float(work) for work in plain["spread"])
        rates: dict[str, Any] = {name: _rate(content["rates"][name]) for name in RATE_NAMES}
        found = Rates(**plain, **rates)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where} holds no rates ({type(error).__name__}: {error}). Fix: make it anew with "
            "python -m deploy.plan --calibrate --rates FILE"
        ) from None
    return found


def write_rates(path: Path, rates: Rates) -> None:
    replace_json(path, to_json(rates))


def read_rates(path: Path) -> Rates:
    """Read rates from a file; ConfigError if it has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--rates {path}: {error}. Fix: add --calibrate to make it") from None
    return from_json(content, f"--rates {path}")


def _rate(content: Mapping[str, Any]) -> Rate:
    value, source = float(content["value"]), content["source"]
    if not (math.isfinite(value) and value >= 0) or source not in ("measured", "assumed"):
        raise ValueError(f"{dict(content)} is no rate")
    return Rate(value, source, str(content.get("note", "")))
