"""A row of the data of a run, for people: question, reference answer, box and picture's size."""

from pathlib import Path
from typing import Any

from common.errors import DataError

_PLACEHOLDER = "<image>"


def shown_sample(train: Path | None, sample_id: str) -> dict[str, Any]:
    """What the data file says of a sample; what it does not say, or not any more, is None.

    Args:
        train: the run's data.train. None means that the run does not say.
    """
    from common.dataset_lookup import find_row  # with the views it takes 0.1 s to load

    try:
        row = (train and find_row(train, sample_id, ("answer",))) or {}
    except DataError:  # it was moved since
        row = {}
    problem, answer, box = row.get("problem"), row.get("answer"), row.get("box")
    size = [row.get(side) for side in ("width", "height")]
    return {
        "sample_id": sample_id,
        "question": problem.replace(_PLACEHOLDER, "").strip() if isinstance(problem, str) else None,
        "answer": str(answer) if isinstance(answer, str | int) else None,
        "box": _whole(box, 4),
        "image_size": _whole(size, 2),
    }


def _whole(numbers: Any, count: int) -> list[int] | None:
    """So many whole numbers. None means that they are others, or none."""
    if not isinstance(numbers, list) or len(numbers) != count:
        return None
    if not all(isinstance(number, int | float) for number in numbers):
        return None
    return [int(number) for number in numbers]
