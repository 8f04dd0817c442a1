"""The regional-to-global gap (paper, section 3): what a model sees in the crop alone.

    gap = accuracy from the evidence crop - accuracy from the full picture, of the same questions

Training on these pictures can teach a model no more than that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.statistics import wilson
from rollout.evaluation.compare import counts_of
from rollout.evaluation.terminal import aligned, percent


@dataclass(frozen=True)
class Gap:
    """The gap over the items of one set that were answered from both views."""

    pairs: int
    crop: tuple[float, float, float]  # accuracy, lower and upper end
    full: tuple[float, float, float]
    gap: tuple[float, float, float]
    p: float  # McNemar's exact test that there is none
    left_out: int  # items to which one of the views has no answer

    @property
    def sentence(self) -> str:
        """Whether there is something to teach here."""
        value, low, high = (100 * number for number in self.gap)
        span = f"{value:+.1f} points (95 %: {low:+.1f} to {high:+.1f})"
        if self.pairs == 0:
            return "Nothing can be said: no item was answered from both views."
        if low > 0:
            return f"There is something to teach here: the crop is worth {span}."
        if high <= 0:
            return f"There is nothing to teach here: the crop is worth {span}."
        return f"Not decided by {self.pairs} items: the crop is worth {span}."


def gap_of(crop: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]]) -> Gap:
    """The gap between the items of two result.json."""
    whole = {one["id"]: one["outcome"] for one in full}
    pairs = [
        (whole[one["id"]] == "right", one["outcome"] == "right")
        for one in crop
        if "failed" not in (one["outcome"], whole.get(one["id"], "failed"))
    ]
    found = counts_of(pairs)
    return Gap(
        found.of,
        _share(found.right_b, found.of),
        _share(found.right_a, found.of),
        found.difference,
        found.p,
        max(len(crop), len(full)) - found.of,
    )


def gap_document(crop: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, Any]:
    """gap.json, from two result.json of the same model and sets."""
    gaps = {name: gap_of(one["items"], full["sets"][name]["items"])
            for name, one in crop["sets"].items()}  # fmt: skip
    return {
        "format": 1,
        "model": crop["model"],
        "identity": {"crop": crop["identity"], "full": full["identity"]},
        "sets": {name: asdict(gap) | {"sentence": gap.sentence} for name, gap in gaps.items()},
    }


def told(document: Mapping[str, Any]) -> str:
    """gap.json in a few lines."""
    rows = [("set", "crop", "full", "gap", "95 %", "pairs", "left out", "p")]
    for name, one in document["sets"].items():
        value, low, high = one["gap"]
        rows.append(
            (
                name,
                percent(one["crop"][0]),
                percent(one["full"][0]),
                percent(value),
                f"{percent(low)} to {percent(high)}",
                str(one["pairs"]),
                str(one["left_out"]),
                f"{one['p']:.2g}",
            )
        )
    sentences = [f"{name}: {one['sentence']}" for name, one in document["sets"].items()]
    return "\n".join([aligned(rows), "", *sentences])


def _share(right: int, of: int) -> tuple[float, float, float]:
    return (right / of if of else 0.0, *wilson(right, of))
