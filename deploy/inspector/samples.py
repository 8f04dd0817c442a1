"""A row of the data of a run, for people: question, reference answer, box and picture's size."""

from pathlib import Path
from typing import Any

from common.dataset_lookup import find_row
from common.errors import DataError

_PLACEHOLDER = "<image>"


def sample_of(train: Path | None, sample_id: str) -> dict[str, Any]:
    """What the data file says of a sample; what it does not say is None.

    Args:
        train: the run's data.train. None means that the run does not say.
    """
    row = _row(train, sample_id) if train is not None and train.is_file() else {}
    problem, answer, box = row.get("problem"), row.get("answer"), row.get("box")
    size = [row[side] for side in ("width", "height") if row.get(side) is not None]
    return {
        "sample_id": sample_id,
        "question": None if problem is None else str(problem).replace(_PLACEHOLDER, "").strip(),
        "answer": None if answer is None else str(answer),
        "box": [int(edge) for edge in box] if box is not None and len(box) == 4 else None,
        "image_size": [int(side) for side in size] if len(size) == 2 else None,
    }


def _row(train: Path, sample_id: str) -> dict[str, Any]:
    try:
        return find_row(train, sample_id, ("answer",)) or {}
    except DataError:
        return {}
