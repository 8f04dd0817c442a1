"""Single trajectories out of RUN/trained, by memory map: only what is asked for is read."""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from common.trained import FOLDER, TrainedStream

Where = tuple[str, int, int]  # file, where its batch starts, row in the batch
_LISTED = ("group_id", "sample_id", "finish_reason")


class TrainedRows:
    """Reads rows of a run's files. Any thread may ask."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER

    def rows(self, where: Sequence[Where], num_tokens: int = 0) -> list[dict[str, Any]]:
        """What a list of trajectories shows of each. Raises OSError, ValueError: not there.

        Args:
            num_tokens: so many first ones of its tokens, as `token_ids`.
        """
        by_batch: dict[tuple[str, int], set[int]] = {}
        for name, offset, row in where:
            by_batch.setdefault((name, offset), set()).add(row)
        found: dict[Where, dict[str, Any]] = {}
        for (name, offset), rows in by_batch.items():
            # Mapped anew for each batch: what was read of others does not stay in memory.
            with contextlib.closing(TrainedStream(self._folder / name)) as stream:
                shown = _shown(stream.batch(offset), rows, num_tokens)
            found |= {(name, offset, row): of_row for row, of_row in shown.items()}
        return [found[place] for place in where]

    def group(self, where: Sequence[tuple[str, int]], group_id: str) -> list[dict[str, Any]]:
        """All rows of a group with all columns, out of batches that may hold it, by index."""
        import pyarrow.compute as pc  # 0.1 s, which no first page needs

        found: list[dict[str, Any]] = []
        for name, offset in where:
            with contextlib.closing(TrainedStream(self._folder / name)) as stream:
                batch = stream.batch(offset)
                is_meant = pc.equal(batch.column("group_id"), group_id)
                found += batch.filter(is_meant).to_pylist()
        return sorted(found, key=lambda row: row["index"])


def _shown(
    batch: pa.RecordBatch, rows: Collection[int], num_tokens: int
) -> dict[int, dict[str, Any]]:
    return {
        row: {
            **{key: batch.column(key)[row].as_py() for key in _LISTED},
            "token_ids": batch.column("token_ids")[row].values[:num_tokens].to_pylist(),
        }
        for row in rows
    }
