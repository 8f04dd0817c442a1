"""What is asked of a run's trajectories: filters, order, page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigError

SORTS = {  # the column of the index, by the word of the request
    "divergence": "divergence_mean",
    "divergence_max": "divergence_max",
    "drift": "drift_mean",
    "drift_max": "drift_max",
    "gain": "gain_mean",
    "entropy": "entropy_mean",
    "length": "tokens",
    "staleness": "staleness",
    "step": "step",
}
MAX_LIMIT = 1000
_LARGEST = 2**53
_MAX_CHARACTERS = 1000


@dataclass(frozen=True)
class TrajectoryQuery:
    """A page of trajectories. What is None does not count."""

    sort: str = "divergence"
    order: str = "desc"
    step_from: int | None = None
    step_to: int | None = None  # the last step that counts
    sample: str | None = None  # sample_id
    text: str | None = None  # that the answer holds, in upper or lower case
    finish: str | None = None
    staleness_min: int | None = None
    changed: tuple[int, int] | None = None  # steps: see `deploy.inspector.changed`
    limit: int = 50
    offset: int = 0

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> "TrajectoryQuery":
        """The query of a request; parameters that are empty or of something else do not count.

        Raises:
            ConfigError: a value that will not do.
        """
        given = {key: value for key, value in parameters.items() if value != ""}
        fields: dict[str, Any] = {
            name: given[name] for name in ("sample", "finish") if name in given
        }
        if "text" in given:  # what no text can hold is found in none
            fields["text"] = given["text"].encode("utf-8", "replace").decode()[:_MAX_CHARACTERS]
        if "sort" in given:
            fields["sort"] = _one_of("sort", given["sort"], tuple(SORTS))
        if "order" in given:
            fields["order"] = _one_of("order", given["order"], ("asc", "desc"))
        for name in ("step_from", "step_to", "staleness_min", "limit", "offset"):
            if name in given:
                fields[name] = number_of(name, given[name])
        if "changed" in given:
            steps = given["changed"].split(",")
            if len(steps) != 2:
                raise _unusable("changed", given["changed"], "two steps are needed", "10,40")
            first, second = sorted(number_of("changed", step) for step in steps)
            fields["changed"] = (first, second)
        fields["limit"] = min(fields.get("limit", cls.limit), MAX_LIMIT)
        return cls(**fields)


def number_of(name: str, text: str) -> int:
    """A whole number from 0 on. Raises ConfigError."""
    text = text.strip()
    digits = text.lstrip("0")[:20] or text[:1]  # Python refuses to read thousands of them
    if not (text.isascii() and text.isdecimal()) or int(digits) > _LARGEST:
        raise _unusable(name, text, "no whole number from 0 on", "10")
    return int(digits)


def _one_of(name: str, text: str, words: tuple[str, ...]) -> str:
    if text not in words:
        raise _unusable(name, text, "not known", ", ".join(words))
    return text


def _unusable(name: str, text: str, why: str, fix: str) -> ConfigError:
    return ConfigError(f"{name} = {text[:100]!r}: {why}. Fix: {name} = {fix}")
