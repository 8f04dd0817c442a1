"""What the figures of a run say about it, and what is to be done then (`learner.health`).

No clock and no files: the same looks in the same order give the same verdicts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config import HealthSection
from common.errors import CheckpointError
from common.metrics import GATED, Gate, Metric, Over, ratio_name

Action = Literal["none", "warn", "pause", "roll_back", "stop"]
ACTIONS: tuple[Action, ...] = ("none", "warn", "pause", "roll_back", "stop")  # mildest first
_MEASUREMENTS = 2  # accuracies in a row that are out of bounds
_ROUNDING = 1e-9  # 0.8 - 0.75 > 0.05


@dataclass(frozen=True)
class Verdict:
    action: Action
    reasons: tuple[str, ...]  # a sentence for each gate that acts now
    figures: dict[str, float]  # for the log
    since: int | None  # the first step that was out of bounds; go back to before it


@dataclass(frozen=True)
class _Gate:
    metric: Metric
    rule: Gate
    bound: float
    patience: int  # looks
    warmup: int  # finite values of a baseline
    action: Action


class _Track(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    reference: float | None = Field(None, allow_inf_nan=False)  # mean of a baseline, or best
    seen: int = Field(0, ge=0)  # values in the reference
    streak: int = Field(0, ge=0)  # looks in a row out of bounds
    since: int | None = None  # step of the first of them
    has_acted: bool = False


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    step: int = Field(0, ge=0)  # the step of the last look
    roll_backs: int = Field(0, ge=0)
    tracks: dict[str, _Track] = Field(default_factory=dict)  # by gate


class HealthGates:
    """All gates of a run, which look at one step's figures after the other's."""

    def __init__(self, config: HealthSection) -> None:
        self._max_roll_backs = config.max_roll_backs
        self._gates = _gates(config)
        self._state = _State()

    def look(self, step: int, metrics: Mapping[str, float], worst_sample: str = "") -> Verdict:
        """Judge the figures of step `step`: a training row, a measuring row, or both in one.

        Args:
            worst_sample: which the figure of a single sample is of.

        The strongest action of the gates that act is the verdict; a roll-back beyond
        max_roll_backs is a stop.
        """
        tracks = dict(self._state.tracks)
        figures: dict[str, float] = {}
        acting: list[_Gate] = []
        reasons: list[str] = []
        for gate in self._gates:
            value = _value(gate, metrics)
            if value is None:
                continue
            before = tracks.get(gate.rule.name, _Track())
            if (ratio := _ratio(gate, before, value)) is not None:
                figures[ratio_name(gate.rule)] = ratio
            track = _after(gate, before, value, step)
            if track.has_acted and not before.has_acted:
                acting.append(gate)
                reason = _reason(gate, before, value, track.streak)
                is_named = gate.rule.is_of_one_sample and worst_sample
                reasons.append(f"{reason}: sample {worst_sample}" if is_named else reason)
            tracks[gate.rule.name] = track
        action: Action = max((gate.action for gate in acting), key=ACTIONS.index, default="none")
        if action == "roll_back" and self.roll_backs >= self._max_roll_backs:
            action = "stop"
            reasons.append(
                f"the run has been rolled back {self.roll_backs} times "
                f"(health.max_roll_backs = {self._max_roll_backs})"
            )
        self._state = _State(
            step=step, roll_backs=self.roll_backs + (action == "roll_back"), tracks=tracks
        )
        starts = [tracks[gate.rule.name].since for gate in acting]
        if self._gates:
            figures["health/action"] = ACTIONS.index(action)
        since = min((start for start in starts if start is not None), default=None)
        return Verdict(action, tuple(reasons), figures, since)

    @property
    def roll_backs(self) -> int:
        """The number of roll-backs that `look` has asked for."""
        return self._state.roll_backs

    @property
    def alarms(self) -> tuple[str, ...]:
        """Gates that have acted and whose figures have not been in bounds since."""
        tracks = self._state.tracks
        names = (gate.rule.name for gate in self._gates)
        return tuple(name for name in names if name in tracks and tracks[name].has_acted)

    def undo_after(self, step: int) -> None:
        """Forget what was found against steps after `step`, from which the run continues.

        Baselines, the best accuracy and the number of roll-backs stay. Without a look after `step`
        nothing changes.
        """
        if self._state.step <= step:
            return
        fresh = {"streak": 0, "since": None, "has_acted": False}
        tracks = {name: t.model_copy(update=fresh) for name, t in self._state.tracks.items()}
        self._state = self._state.model_copy(update={"step": step, "tracks": tracks})

    def state(self) -> dict[str, Any]:
        """All that the gates remember, for JSON.

        Keep it beside the checkpoints, not in them: a run that goes back to an older one must not
        forget that it has done so.
        """
        return self._state.model_dump(mode="json")

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave. Gates that were off then begin with a new baseline.

        Raises:
            CheckpointError: it is not of this form.
        """
        try:
            self._state = _State.model_validate(state)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            raise CheckpointError(
                f"state of the health gates: {where}: {first['msg']}. "
                "Fix: bring it back as it was, or remove it to begin with new baselines"
            ) from error


# ---- one gate ------------------------------------------------------------------------------------
def _gates(config: HealthSection) -> tuple[_Gate, ...]:
    if config.action == "off":
        return ()
    return tuple(
        _Gate(
            metric,
            rule,
            bound,
            patience=_patience(metric, rule, config),
            warmup=max(1, config.warmup_steps),
            action=_action(rule, config),
        )
        for metric, rule in GATED.items()
        if (bound := getattr(config, rule.bound_key)) is not None
    )


def _patience(metric: Metric, rule: Gate, config: HealthSection) -> int:
    if rule.is_of_one_sample:
        return 1  # the next step has other samples
    return min(config.patience, _MEASUREMENTS) if _is_measured(metric) else config.patience


def _action(rule: Gate, config: HealthSection) -> Action:
    is_fixed_by_going_back = rule.kind != "limit"
    if is_fixed_by_going_back or (config.action == "stop" and not rule.is_of_one_sample):
        return config.action  # type: ignore[return-value]  # "off" has no gates
    return "warn"


def _is_measured(metric: Metric) -> bool:
    return metric.over is Over.HELDOUT


def _value(gate: _Gate, metrics: Mapping[str, float]) -> float | None:
    value = metrics.get(gate.metric.name)
    if gate.rule.name == "length" and value == 0:
        return None  # a step without a usable group: the mean of no responses
    return value


def _after(gate: _Gate, track: _Track, value: float, step: int) -> _Track:
    learned = _learned(gate, track, value)
    if not _is_out(gate, track, value):
        return learned.model_copy(update={"streak": 0, "since": None, "has_acted": False})
    streak = track.streak + 1
    return learned.model_copy(
        update={
            "streak": streak,
            "since": step if track.since is None else track.since,
            "has_acted": streak >= gate.patience,
        }
    )


def _learned(gate: _Gate, track: _Track, value: float) -> _Track:
    """The reference with this value in it."""
    if not math.isfinite(value) or gate.rule.kind == "limit" or _is_complete(gate, track):
        return track
    reference = value if track.reference is None else track.reference
    if gate.rule.kind == "drop":
        reference = max(reference, value)
    else:
        reference += (value - reference) / (track.seen + 1)
    return track.model_copy(update={"reference": reference, "seen": track.seen + 1})


def _is_complete(gate: _Gate, track: _Track) -> bool:
    """Whether the baseline is final; a best value never is."""
    return gate.rule.kind in ("growth", "shrink") and track.seen >= gate.warmup


def _reference(gate: _Gate, track: _Track) -> float | None:
    """The number that a value is compared with; None without a baseline, or with one of 0."""
    if gate.rule.kind == "limit":
        return gate.bound
    if track.reference is None or track.reference <= 0:
        return None
    return track.reference if gate.rule.kind == "drop" or _is_complete(gate, track) else None


def _ratio(gate: _Gate, track: _Track, value: float) -> float | None:
    reference = _reference(gate, track)
    return None if reference is None else value / reference


def _is_out(gate: _Gate, track: _Track, value: float) -> bool:
    if not math.isfinite(value):
        return True
    reference = _reference(gate, track)
    if reference is None:
        return False
    match gate.rule.kind:
        case "growth":
            return value > gate.bound * reference
        case "shrink":
            return value < gate.bound * reference
        case "drop":
            return reference - value > gate.bound + _ROUNDING
        case "limit":
            return value > gate.bound


def _reason(gate: _Gate, track: _Track, value: float, streak: int) -> str:
    rule, reference = gate.rule, _reference(gate, track)
    looks = f"{'measurement' if _is_measured(gate.metric) else 'step'}{'' if streak == 1 else 's'}"
    setting = f"(health.{rule.bound_key} = {gate.bound:g}) for {streak} {looks}"
    if not math.isfinite(value) or reference is None:
        return f"{rule.label} is {value} {setting}"
    unit = "" if gate.metric.unit in ("", "share") else f" {gate.metric.unit}"
    subject = f"{rule.label} {_short(value)}{unit} is"
    if rule.kind == "limit":
        return f"{subject} above its bound {setting}"
    if rule.kind == "drop":
        return (
            f"{subject} {_short(reference - value)} below its best of {_short(reference)} {setting}"
        )
    times = _short(value / reference)
    return f"{subject} {times} times its baseline of {_short(reference)} {setting}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
