"""What the paper reports (arXiv 2605.18740), in percent, and our figures beside it.

Tables 1 and 2 of v1; the column mme-realworld is of v2, which has the whole English set in place of
its Lite part. The last two pairs of Qwen3-VL rows are of v2, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.evaluation.stored_result import StoredFigure, StoredResult

_MAIN = ("vstar", "zoombench", "hrbench-4k", "hrbench-8k", "mme-realworld-lite", "mme-realworld-cn")
_TABLE_1 = """
DeepEyes-7B             85.86 46.51 75.13 72.63 53.20 64.09
Thyme-7B                82.20 45.09 77.00 72.00 55.18 64.59
DeepEyesV2              81.68 44.97 77.88 73.75 51.59 65.07
SenseNova-MARS-8B       92.15 47.81 83.13 78.38 43.67 68.90
GPT-5.2                 79.06 50.89 81.12 78.38 47.06 68.80
GPT-5.4                 76.96 52.66 84.00 77.88 48.10 70.93
Gemini-3.1-Pro          87.96 61.18 89.63 86.88 49.50 73.31
Qwen3.5-4B              84.29 47.69 84.38 80.13 35.80 63.70
Qwen3.5-9B              82.72 52.07 85.75 80.63 46.12 67.67
MiMo-VL-RL-7B           83.25 45.68 73.50 69.38 39.50 55.89
Qwen3-VL-8B             84.82 42.96 79.63 75.25 46.53 64.61
ZwZ-8B                  87.96 56.69 83.63 81.75 54.35 68.09
MiniCPM-V-4.5           70.68 42.60 69.63 61.50 42.31 61.64
GLM-4.6V-106B           86.91 50.06 82.13 78.88 43.10 65.62
Qwen3-VL-235B           91.10 56.09 86.13 80.38 42.83 69.04
Qwen3.5-397B            87.96 57.16 89.38 85.50 45.39 69.82
Kimi-K2.5               87.43 52.43 80.00 75.25 56.38 65.71
Vision-OPD-4B           92.15 59.76 84.50 80.38 55.45 70.76
Vision-OPD-9B           94.76 65.80 88.13 85.50 49.56 70.46
"""
_WHOLE_MME = {
    "Qwen3.5-4B": 63.86,
    "Vision-OPD-4B": 74.88,
    "Qwen3.5-9B": 71.40,
    "Vision-OPD-9B": 73.40,
    "Qwen3.5-397B": 77.44,
    "GLM-4.6V-106B": 71.53,
    "SenseNova-MARS-8B": 73.05,
    "Qwen3-VL-8B": 63.19,
}
_V2 = ("vstar", "zoombench", "hrbench-4k", "hrbench-8k", "mme-realworld", "mme-realworld-cn")
_TABLE_1_V2 = """
Qwen3-VL-4B             81.68 44.97 78.50 76.25 63.27 62.92
Qwen3-VL-4B Vision-OPD  84.82 53.49 81.50 77.00 68.02 68.89
Qwen3-VL-8B Vision-OPD  89.53 53.02 83.00 79.50 67.03 68.96
"""
_OTHERS = ("vstar", "zoombench", "hrbench-4k", "hrbench-8k", "mmvp", "cv-bench", "mmstar", "pope")
_TABLE_2 = """
Qwen3.5-4B              84.29 47.69 84.38 80.13 76.67 87.13 78.53 88.28
Qwen3.5-4B SFT          78.01 54.67 79.75 76.38 78.33 85.70 68.40 87.48
Qwen3.5-4B GRPO         83.77 55.38 82.63 78.25 79.33 87.24 70.60 86.37
Qwen3.5-4B DAPO         84.82 55.74 84.00 78.00 79.33 86.95 72.27 86.62
Qwen3.5-4B OPSD         85.34 53.85 82.25 79.38 78.68 87.27 75.07 88.83
Vision-OPD-4B           92.15 59.76 84.50 80.38 79.67 87.27 79.60 89.14
Qwen3.5-9B              82.72 52.07 85.75 80.63 83.33 88.29 83.07 88.88
Qwen3.5-9B SFT          82.20 58.46 83.50 80.25 80.67 87.97 73.33 87.47
Qwen3.5-9B GRPO         85.34 57.51 86.88 83.25 81.67 87.78 73.40 87.78
Qwen3.5-9B DAPO         88.48 55.62 86.25 84.13 79.33 87.30 75.67 87.54
Qwen3.5-9B OPSD         89.53 57.51 84.00 81.25 80.67 87.45 79.13 87.48
Vision-OPD-9B           94.76 65.80 88.13 85.50 83.67 88.40 83.20 89.13
"""
_PAIRS = ("Qwen3.5-4B", "Vision-OPD-4B", "Qwen3.5-9B", "Vision-OPD-9B")
REMARK = (
    "The paper's replies were judged by rules and then, where those saw nothing right, by "
    "gpt-oss-120b; it gives no intervals."
)
# How the paper measured, as far as its tables and harness tell.
_AS_PUBLISHED = {"prompt_style": "paper", "labels": "paper", "view": "full", "temperature": 0.0}


@dataclass(frozen=True)
class PaperTable:
    """Rows of the paper and ours, as texts; the first column names the model."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    unlike: tuple[str, ...]  # in what ours were measured otherwise than the paper's


def paper_scores() -> dict[str, dict[str, float]]:
    """Percent by model and set; each model has the sets that the paper gives."""
    scores: dict[str, dict[str, float]] = {}
    for text, sets in ((_TABLE_1, _MAIN), (_TABLE_1_V2, _V2), (_TABLE_2, _OTHERS)):
        for model, numbers in _rows(text):
            scores.setdefault(model, {}).update(zip(sets, numbers, strict=True))
    for model, score in _WHOLE_MME.items():
        scores[model]["mme-realworld"] = score
    return scores


def paper_table(
    results: Sequence[tuple[str, StoredResult]], is_whole: bool = False
) -> PaperTable | None:
    """Ours below the paper's base models and Vision-OPD; None if the paper has none of our sets.

    Args:
        results: pairs of what to call a result, and the result.
        is_whole: whether to show all of the paper's models.
    """
    scores = paper_scores()
    known = {name for row in scores.values() for name in row}
    sets = [n for n in dict.fromkeys(n for _, r in results for n in r.sets) if n in known]
    if not sets:
        return None
    models = list(scores) if is_whole else list(_PAIRS)
    theirs = [(model, *(_percent(scores[model].get(name)) for name in sets)) for model in models]
    ours = [(label, *(_ours(result, name) for name in sets)) for label, result in results]
    told = [f"{label}: {line}" for label, result in results for line in unlike_paper(result, sets)]
    return PaperTable(("model", *sets), (*theirs, *ours), tuple(told))


def unlike_paper(result: StoredResult, sets: Sequence[str]) -> Iterator[str]:
    """Yield in what a result was measured otherwise than the paper's figures."""
    for key, value in _AS_PUBLISHED.items():
        if (found := result.identity.get(key, value)) != value:
            yield f"{key} is {found!r}, not {value!r}"
    if result.identity.get("thinking"):
        yield "the model thinks before it answers"
    settings: Mapping[str, Any] = result.identity.get("sets", {})
    for name in sets:
        if name in result.sets and (limit := settings.get(name, {}).get("limit")):
            yield f"{name}: its first {limit} items only"


def _rows(text: str) -> Iterator[tuple[str, list[float]]]:
    for line in text.strip().splitlines():
        words = line.split()
        numbers = [word for word in words[1:] if _is_score(word)]
        yield " ".join(words[: len(words) - len(numbers)]), list(map(float, numbers))


def _is_score(word: str) -> bool:
    whole, dot, part = word.partition(".")
    return bool(dot) and whole.isdecimal() and part.isdecimal()


def _ours(result: StoredResult, name: str) -> str:
    found = result.sets[name].headline_figure if name in result.sets else None
    return "-" if found is None else figure_text(found)


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


def figure_text(figure: StoredFigure) -> str:
    """A figure in percent, with its interval if known: "84.29 (78.46 to 88.74)"."""
    value = f"{100 * figure.value:.2f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({100 * figure.low:.2f} to {100 * figure.high:.2f})"
