"""A page of a run's trajectories: filtered, sorted, with the first characters of each answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.inspector.changed import of_changed
from deploy.inspector.index import Index, IndexReader
from deploy.inspector.index_rows import FINISHES
from deploy.inspector.query import SORTS, TrajectoryQuery
from deploy.inspector.tokens import TokenDecoder
from deploy.inspector.trained_rows import TrainedRows

SHOWN_CHARACTERS = 200
_TOKENS = 4 * SHOWN_CHARACTERS  # which surely hold them: a character may be of several
_SHOWN = (
    "step", "index", "tokens", "staleness", "divergence_mean", "divergence_max", "drift_mean",
    "drift_max", "gain_mean", "entropy_mean",
)  # fmt: skip


def trajectories(
    query: TrajectoryQuery, reader: IndexReader, trained: TrainedRows, texts: TokenDecoder
) -> dict[str, Any]:
    """The answer of `trajectories`, without `indexed`.

    Raises:
        OSError: a part of the index, or a file of trajectories, has gone meanwhile.
    """
    index = reader.now()
    wanted = _wanted(query, index)
    if query.text is not None:
        wanted = reader.matching(index, query.text, wanted)
    places = np.flatnonzero(wanted)
    shown = in_order(index, places, query)[query.offset :]
    return {"total": len(places), "rows": _rows(index, shown.tolist(), trained, texts)}


def _wanted(query: TrajectoryQuery, index: Index) -> np.ndarray:
    """bool [N]: the rows that pass every filter but the text's."""
    columns = index.columns
    wanted = index.is_valid()
    if query.step_from is not None:
        wanted &= columns["step"] >= query.step_from
    if query.step_to is not None:
        wanted &= columns["step"] <= query.step_to
    if query.staleness_min is not None:
        wanted &= columns["staleness"] >= query.staleness_min
    if query.sample is not None:
        wanted &= index.sample_codes == index.code_of(query.sample)
    if query.finish is not None:
        known = FINISHES.index(query.finish) if query.finish in FINISHES else -1
        wanted &= columns["finish"] == known
    if query.changed is not None:
        wanted &= of_changed(index, *query.changed)
    return wanted


def in_order(index: Index, places: np.ndarray, query: TrajectoryQuery) -> np.ndarray:
    """The first places, up to the page's end, in the order that is asked for.

    Equals are as they were trained, values that are NaN come last.
    """
    values = index.columns[SORTS[query.sort]][places]
    if query.order == "desc":
        values = -values
    end = query.offset + query.limit
    if end < len(places):
        last = np.partition(values, end)[end]
        if not np.isnan(last):
            is_before = values <= last
            places, values = places[is_before], values[is_before]
    return places[np.argsort(values, kind="stable")][:end]


def _rows(
    index: Index, places: Sequence[int], trained: TrainedRows, texts: TokenDecoder
) -> list[dict[str, Any]]:
    files = index.manifest.files
    where = [
        (
            files[index.columns["file"][place]].name,
            int(index.columns["offset"][place]),
            int(index.columns["row"][place]),
        )
        for place in places
    ]
    found = trained.rows(where, _TOKENS)
    answers = texts.texts([row["token_ids"] for row in found])
    return [
        {
            "id": f"{name}:{offset}:{number}",
            "group_id": row["group_id"],
            "sample_id": row["sample_id"],
            "finish": row["finish_reason"],
            **{key: as_number(index.columns[key][place]) for key in _SHOWN},
            "text": text[:SHOWN_CHARACTERS],
        }
        for place, (name, offset, number), row, text in zip(
            places, where, found, answers, strict=True
        )
    ]


def as_number(value: Any) -> int | float | None:
    """A number for JSON; None means that it is not finite."""
    if isinstance(value, np.integer):
        return int(value)
    return round(float(value), 6) if np.isfinite(value) else None
